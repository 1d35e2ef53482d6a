"""What int8 needs to know of a model: the range of numbers that each linear layer reads, and what rounding costs it."""
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from vitrail.core.errors import ExportError
from vitrail.deploy.structure import leaves_of
from vitrail.deploy.cpu.graph import Constants, aten, args_of, batch, calls, shape
from vitrail.deploy.cpu.moves import unmoved

LEVELS = 255
CLIPS = (1.0, 0.8, 0.6, 0.45, 0.3)     # shares of the largest magnitude that are tried as the range's end
ROWS = 4096                 # of what a layer reads, drawn over all batches, on which they are compared; 512 miss the
#                             rare rows that a clip hurts, and a MobileViT on digits then loses three times as much
MOST = 256                  # images that are calibrated on; more move no range
FEW = 8                     # rows an image: below them a layer reads tokens chosen one by one, and its time is nothing


@dataclass(frozen=True)
class Range:
    """x is about scale * (q - zero), q from 0 to 255; `ratio` is the signal-to-noise ratio, in dB, of a linear layer's
    answer when its input and its weights are rounded."""

    scale: float
    zero: int
    ratio: float


@dataclass
class Calibration:
    """Input tensors of M samples, and by the layers' keys what they gave: factors of channels that make them alike,
    where that is needed, and the ranges that follow. The samples are dropped when used."""

    inputs: Sequence[Tensor] | None
    count: int = 0
    factors: dict[str, Tensor] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)


def calibration_of(batches: Iterable[Any] | None, example: Sequence[Tensor]) -> Calibration:
    """The samples of the batches, up to 256, or those of the example where there are no batches.

    Raises ExportError on what is no such batch, on other shapes than the example's, on none at all, and on numbers that
    are not finite.
    """
    taken: list[list[Tensor]] = []
    count = 0
    for at, given in enumerate([example] if batches is None else batches):
        what = "the example" if batches is None else f"batch {at} of the calibration"
        leaves = leaves_of(given)
        if [(leaf.shape[1:], leaf.is_floating_point()) for leaf in leaves] != \
                [(leaf.shape[1:], leaf.is_floating_point()) for leaf in example]:
            shapes = " and ".join(f"{tuple(leaf.shape)} in {leaf.dtype}" for leaf in leaves)
            wanted = " and ".join(f"(B, {', '.join(map(str, leaf.shape[1:]))}) in {leaf.dtype}" for leaf in example)
            raise ExportError(f"{what} has the shape {shapes}; give batches like the example's, {wanted}, prepared as "
                              "the model takes them")
        if not all(leaf.isfinite().all() for leaf in leaves):
            raise ExportError(f"{what} holds numbers that are not finite")
        kept = [leaf[:MOST - count].detach() for leaf in leaves]
        taken.append([leaf.float() if leaf.is_floating_point() else leaf for leaf in kept])
        count += len(kept[0])
        if count >= MOST:
            break
    if not count:
        raise ExportError("the calibration holds no sample; leave it out to calibrate on the example")
    return Calibration([torch.cat(leaves) for leaves in zip(*taken, strict=True)], count)


def keys(graph: fx.Graph, constants: Constants) -> dict[fx.Node, str]:
    """A name for every linear layer with a constant weight, the same at every size of image: a digest of its weight,
    and the how-manyeth layer with this weight it is."""
    found: dict[fx.Node, str] = {}
    met: Counter[str] = Counter()
    for node in calls(graph, aten.linear.default):
        weight = args_of(node)[1]
        if weight.op == "get_attr":
            digest = hashlib.blake2b(constants.value(weight).contiguous().numpy().data, digest_size=16).hexdigest()
            found[node] = f"{digest}:{met[digest]}"
            met[digest] += 1
    return found


def many(node: fx.Node, images: int) -> bool:
    """Whether a linear layer reads many rows of each image, and not a class token or a pooled one."""
    return len(shape(node)) > 1 and math.prod(shape(node)[:-1]) >= FEW * images


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (N, K) as int8, symmetric, and the scale (N,) of each row."""
    scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


@dataclass
class _Seen:
    """What passed through the layers that read one tensor."""

    low: float = 0.0
    high: float = 0.0
    noise: dict[fx.Node, Tensor] = field(default_factory=dict)      # by clip, squared and to the fourth, summed up
    total: dict[fx.Node, Tensor] = field(default_factory=dict)      # of answers: number, sums, sums of squares

    def clipped(self, clip: float) -> tuple[float, int]:
        """Scale and zero of the range whose larger end is cut to this share."""
        end = clip * max(-self.low, self.high)
        low, high = max(self.low, -end), min(self.high, end)
        scale = max((high - low) / LEVELS, torch.finfo(torch.float32).tiny)
        return scale, min(max(round(-low / scale), 0), LEVELS)

    def signal(self, layer: fx.Node) -> float:
        """Of a layer's answers: the squares of what differs from a channel's mean."""
        count, sums, squares = self.total[layer]
        return float((squares - sums * sums / count).sum().clamp_min(torch.finfo(torch.float32).tiny))


Note = Callable[[fx.Node, Tensor], None]


class _Watch(fx.Interpreter):
    """Runs a graph, and shows what the watched calls were given."""

    def __init__(self, constants: Constants, graph: fx.Graph, watched: Mapping[fx.Node, Note]):
        super().__init__(constants, graph=graph)
        self.watched = watched

    def run_node(self, n: fx.Node) -> Any:
        if n in self.watched:
            self.watched[n](n, self.env[args_of(n)[0]])
        return super().run_node(n)


@torch.inference_mode()
def watch(graph: fx.Graph, constants: Constants, watched: Mapping[fx.Node, Note],
          inputs: Sequence[Tensor]) -> None:
    """Runs a graph on a batch, and shows what some of its calls were given."""
    _Watch(constants, graph, watched).run(*inputs)


@torch.inference_mode()
def observed(graph: fx.Graph, constants: Constants, inputs: Sequence[Tensor]) -> dict[str, Range]:
    """The range of what each linear layer reads, by its key: the one of a few clips with which the answers of the
    layers that read the tensor move least, by the sum of fourth powers, since a clip moves few answers far. Layers that
    read few rows have none."""
    named = {node: key for node, key in keys(graph, constants).items() if many(node, batch(graph))}
    seen: dict[fx.Node, _Seen] = defaultdict(_Seen)
    parts, generator = batches(inputs, batch(graph)), torch.Generator().manual_seed(0)

    def extend(node: fx.Node, x: Tensor) -> None:
        one = seen[unmoved(args_of(node)[0])]
        low, high = (float(end) for end in x.aminmax())
        one.low, one.high = min(one.low, low), max(one.high, high)

    def compare(node: fx.Node, x: Tensor) -> None:
        one, weight = seen[unmoved(args_of(node)[0])], constants.value(args_of(node)[1])
        rows = x.reshape(-1, x.shape[-1])
        rows = rows[torch.randperm(len(rows), generator=generator)[:ROWS // len(parts)]]
        right = rows @ weight.T
        whole, scales = rounded(weight)
        low = whole * scales[:, None]
        apart = [torch.fake_quantize_per_tensor_affine(rows, *one.clipped(clip), 0, LEVELS) @ low.T - right
                 for clip in CLIPS]
        noise = torch.stack([torch.stack([a.pow(2).sum(), a.pow(4).sum()]) for a in apart])
        total = torch.stack([torch.full_like(right[0], len(right)), right.sum(0), right.square().sum(0)])
        one.noise[node] = one.noise.get(node, 0) + noise
        one.total[node] = one.total.get(node, 0) + total
    for note in (extend, compare):
        for part in parts:
            watch(graph, constants, dict.fromkeys(named, note), part)
    found: dict[str, Range] = {}
    for one in seen.values():
        large = torch.stack([noise[:, 1].sqrt() / one.signal(node) for node, noise in one.noise.items()])
        best = int(large.sum(0).argmin())
        for node, noise in one.noise.items():
            share = float(noise[best, 0]) / one.signal(node)
            found[named[node]] = Range(*one.clipped(CLIPS[best]), -10 * math.log10(max(share, 1e-30)))
    return found


def batches(inputs: Sequence[Tensor], size: int) -> Sequence[Sequence[Tensor]]:
    """Batches of one size; the last is filled up from the start."""
    count = len(inputs[0])
    places = torch.arange(math.ceil(count / size) * size) % count
    return [[leaf[part] for leaf in inputs] for part in places.split(size)]
