"""How parts are put together: chains, stacks, residuals, and what may be dropped on the way."""
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint

LayerNorm = partial(nn.LayerNorm, eps=1e-6)

# plain, not a ContextVar: the compiler cannot trace one, and autograd's threads (recomputed parts) would not see it
_SHARE = (0, 1)


@contextlib.contextmanager
def share(rank: int, of: int) -> Iterator[None]:
    """Within: a batch is part `rank` of `of` equal parts of one whole batch, whose random draws it shares."""
    global _SHARE
    before, _SHARE = _SHARE, (rank, of)
    try:
        yield
    finally:
        _SHARE = before


@contextlib.contextmanager
def _once(part: nn.Module, steps: Mapping[nn.Module, Mapping[str, Tensor | None]] | None = None) -> Iterator[None]:
    """Within: what batch norms below `part` add to their running statistics is forgotten afterwards, and spectral
    norms step from where they did before, `steps`."""
    norms = [m for m in part.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, _SpectralNorm))]
    kept = [dict(m._buffers) for m in norms]
    for norm in norms:
        begin = (steps or {}).get(norm, norm._buffers)
        norm._buffers.update({k: None if b is None else b.clone() for k, b in begin.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


_Context = contextlib.AbstractContextManager[None]


def _contexts(part: nn.Module) -> tuple[_Context, _Context]:
    """Around a part's forward pass, and around the second one that the backward pass makes."""
    steps: dict[nn.Module, Mapping[str, Tensor | None]] = {
        m: {k: None if b is None else b.clone() for k, b in m._buffers.items()}
        for m in part.modules() if isinstance(m, _SpectralNorm)}
    return contextlib.nullcontext(), _once(part, steps)


WIDE = 1 << 23      # numbers: what is smaller costs less to keep than to make again


def recompute(fn: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """fn(*args), for what is cheap to make of wide tensors: in the backward pass it is made again instead of kept."""
    wide = sum(t.numel() for t in args) >= WIDE and any(t.requires_grad for t in args)
    if not wide or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return fn(*args)
    found: Tensor = checkpoint(fn, *args, use_reentrant=False)
    return found


class Chain(nn.Sequential):
    """Parts in order, by name."""

    def __init__(self, *parts: nn.Module, **named: nn.Module):
        super().__init__(OrderedDict([(str(i), p) for i, p in enumerate(parts)] + list(named.items())))


class Stack(nn.ModuleList):
    """Equal parts in order; context (grid, rope, memory, ...) goes to each.

    With `checkpointing` on, a part's activations are computed again in the backward pass instead of kept.
    """

    checkpointing = False

    def forward(self, x: Tensor, *context: object) -> Tensor:
        for part in self:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(part, x, *context, use_reentrant=False, context_fn=partial(_contexts, part))
            else:
                x = part(x, *context)
        return x


class Block(nn.Module):
    """Mix tokens, then channels. Context is for the mixer."""

    def __init__(self, mix: nn.Module, mlp: nn.Module):
        super().__init__()
        self.mix, self.mlp = mix, mlp

    def forward(self, x: Tensor, *context: object) -> Tensor:
        return self.mlp(self.mix(x, *context))


class Scale(nn.Module):
    """LayerScale: one learned gain a channel (Touvron et al., arXiv:2103.17239, equation 2)."""

    def __init__(self, dim: int, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv:1603.09382): a sample skips this branch with probability p.

    The draw is made for the whole batch of which this one may be a part (`share`), so that splitting a
    batch over processes does not change which samples skip.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        rank, of = _SHARE
        n = x.shape[0]
        keep = torch.empty(n * of, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)[rank * n:rank * n + n]
        return x * keep.view(-1, *(1,) * (x.ndim - 1)) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:.3g}"


class Residual(nn.Module):
    """x + drop(scale · fn(norm(x))): the pre-norm residual, with what may weigh or drop the branch."""

    def __init__(self, fn: nn.Module, norm: nn.Module, *, scale: nn.Module | None = None,
                 drop: nn.Module | None = None):
        super().__init__()
        self.norm, self.fn = norm, fn
        self.scale, self.drop = scale or nn.Identity(), drop or nn.Identity()

    def forward(self, x: Tensor, *context: object) -> Tensor:
        return x + self.drop(self.scale(self.fn(self.norm(x), *context)))


class Gelu(nn.Module):
    """GELU (Hendrycks & Gimpel, arXiv:1606.08415), exact; for a value that nobody else reads.

    Where no gradient is recorded it overwrites its input, the widest tensor of a block, instead of filling another
    one. A hook that keeps what comes before it then has to copy.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return nn.functional.gelu(x)
        return torch.ops.aten.gelu_.default(x)


class Mlp(nn.Module):
    """Two linear layers with an activation between them, on every token alone.

    In training the activated numbers, the widest of a block, are made again where they are needed.
    """

    def __init__(self, dim: int, hidden: int, act: Callable[[], nn.Module] = Gelu):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), act(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return recompute(self._behind, x) if self.training else self._behind(x)

    def _behind(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(x))


def transformer_block(mixer: nn.Module, dim: int, mlp_ratio: float, drop: float, *,
                      norm: Callable[[int], nn.Module] = LayerNorm) -> Block:
    """The pre-norm pair: a mixer, then an Mlp of mlp_ratio · dim, both skipped with probability `drop`."""
    return Block(mix=Residual(mixer, norm(dim), drop=DropPath(drop)),
                 mlp=Residual(Mlp(dim, int(dim * mlp_ratio)), norm(dim), drop=DropPath(drop)))


def drop_path_rates(p: float, depth: int) -> list[float]:
    """Stochastic depth grows linearly from 0 to p over the depth."""
    return [p * i / max(depth - 1, 1) for i in range(depth)]
