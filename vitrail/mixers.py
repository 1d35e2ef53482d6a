"""One thing changed: a plain backbone whose blocks mix their tokens by another mechanism.

Every mechanism gets the same surroundings, so that a comparison compares mechanisms: the patches, the learned
positions, the pre-norm blocks and the depth of the backbone; no class token, which many of them could not place on a
map; and the mean of the map as the answer. `self_attention` is the mechanism to compare with.
"""
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vitrail.core import catalogue, plugins
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import Mechanism, Takes
from vitrail.nn import Block, Features, PositionTable, Head, Residual, SelfAttention, Stack, init, mean_map


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """How to make a token mixer: its name, its maker from (dim, heads, grid), and the layout it takes."""

    name: str
    make: Callable[[int, int, tuple[int, int]], nn.Module]
    takes: Takes


def find_mixer(wanted: "str | type[nn.Module] | Mechanism") -> Mixer:
    """A mechanism by its name in the catalogue, as it is declared, as a class, or by where a class of your own is:
    `mine.py:MyMixer`, `package.module:MyMixer`.

    A class of the catalogue is made as its entry says. Any other one is called with those of `dim`, `heads` and `grid`
    that its constructor names; it takes (B, N, C), unless its attribute `takes` is `Takes.MAP`.

    Raises ModelError for an unknown name, a mechanism that cannot mix the tokens of an image, and a class that needs
    other arguments.
    """
    if isinstance(wanted, str) and ":" in wanted:
        wanted = plugins.find(wanted)
    if isinstance(wanted, str):
        return _declared(wanted, catalogue.mechanism_of(wanted))
    if isinstance(wanted, Mechanism):
        return _declared(plugins.reference_to(wanted.build), wanted)
    for name in catalogue.names("attention"):
        if (known := catalogue.mechanism_of(name)).build is wanted:
            return _declared(name, known)
    return _own(wanted)


def _declared(name: str, mechanism: Mechanism) -> Mixer:
    if isinstance(mechanism.mixer, str):
        raise ModelError(f"{name} cannot mix the tokens of an image: {mechanism.mixer}")
    return Mixer(name=name, make=mechanism.mixer, takes=mechanism.takes)


def _own(wanted: type[nn.Module]) -> Mixer:
    if not (isinstance(wanted, type) and issubclass(wanted, nn.Module)):
        raise ModelError(f"{wanted!r} is not a mixer: give a class of torch.nn.Module, a Mechanism, or a name")
    name = plugins.reference_to(wanted)
    parameters = inspect.signature(wanted).parameters
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD,
                                                                                          p.VAR_POSITIONAL)]
    if strange := [n for n in needed if n not in ("dim", "heads", "grid")]:
        raise ModelError(f"{name} cannot be made as a mixer: its constructor needs {', '.join(strange)}, and is given "
                         "dim, heads and grid. Hand a Mechanism, whose `mixer` makes it")

    def make(dim: int, heads: int, grid: tuple[int, int]) -> nn.Module:
        given: dict[str, Any] = {"dim": dim, "heads": heads, "grid": grid}
        return wanted(**{n: given[n] for n in parameters if n in given})
    return Mixer(name=name, make=make, takes=getattr(wanted, "takes", Takes.TOKENS))


class AsSequence(nn.Module):
    """A mechanism over sequences, on a map: (B, H, W, C) -> same."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x.flatten(1, 2)).view_as(x)


class Mixed(nn.Module):
    """A plain backbone with another mixer in every block: patches, positions, blocks on a map, norm.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim). Takes the parts of `plain`, whose class token goes; raises
    ModelError where `plain` is not plain, or where the mechanism refuses its width, heads or grid.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stem_weights: tuple[str, ...]

    def __init__(self, name: str, plain: Any, mixer: Mixer):
        super().__init__()
        blocks, table = plain_blocks(name, plain), plain.position
        self.channels, self.strides = plain.channels, plain.strides
        self.stem_weights = plain.stem_weights
        self.patch_embed = plain.patch_embed
        self.position = PositionTable(table.grid, self.channels[-1])
        init.truncated(self.position)
        for block in blocks:
            heads = block.mix.fn.qkv.heads
            try:
                made = mixer.make(self.channels[-1], heads, table.grid)
            except (ValueError, TypeError, RuntimeError, ModelError) as e:
                raise ModelError(f"{mixer.name} cannot mix the tokens of {name} (width {self.channels[-1]}, {heads} "
                                 f"heads, {table.grid[0]} x {table.grid[1]} tokens): {e}") from e
            block.mix.fn = AsSequence(made) if mixer.takes is Takes.TOKENS else made
        self.blocks, self.norm = plain.blocks, plain.norm

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                            # (B, h, w, C)
        x = self.position(x.flatten(1, 2), x.shape[1:3]).view_as(x)         # (B, h, w, C)
        return Features(maps=(self.norm(self.blocks(x)),))

    def make_head(self, classes: int) -> nn.Module:
        head = Head(self.channels[-1], classes, mean_map)
        init.truncated_linears(head)
        return head


def plain_blocks(name: str, backbone: nn.Module) -> list[Any]:
    """The blocks of a plain backbone, every one of which mixes all tokens by self-attention.

    Raises ModelError that says what stands in the way.
    """
    blocks = getattr(backbone, "blocks", None)
    advice = "Take a plain one, such as vit_s16 or deit_ti16"
    if not isinstance(blocks, Stack) or not len(blocks):
        raise ModelError(f"{name} has no stack of equal blocks whose token mixer could be replaced. {advice}")
    for at, block in enumerate(blocks):
        fn = block.mix.fn if isinstance(block, Block) and isinstance(block.mix, Residual) else block
        if not isinstance(fn, SelfAttention):
            raise ModelError(f"{name} is no plain backbone: its block {at} holds a {type(fn).__name__} where "
                             f"self-attention over all tokens would be replaced. {advice}")
    parts = {n for n, part in backbone.named_children() if any(True for _ in part.parameters())}
    if strange := parts - {"patch_embed", "prefix", "position", "blocks", "norm"}:
        raise ModelError(f"{name} is no plain backbone: besides its plain blocks it has {', '.join(sorted(strange))}, "
                         f"which would stay as it is. {advice}")
    if not isinstance(getattr(backbone, "position", None), PositionTable):
        raise ModelError(f"{name} holds no table of learned positions, which every mixer is to get. {advice}")
    return list(blocks)
