"""Words of convolutional networks, on maps (B, H, W, C)."""
from torch import Tensor, nn

from vitrail.nn.blocks import Chain, Gelu, recompute
from vitrail.nn.maps import BatchNorm, Conv


def conv_norm(dim: int, out: int, size: int = 1, stride: int = 1, *, groups: int = 1,
              act: nn.Module | None = None) -> Chain:
    """A convolution without bias, a batch norm, and where given an activation: parts `conv`, `norm`, `act`.

    (B, H, W, dim) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, out), for an odd size.
    """
    parts: dict[str, nn.Module] = {"conv": Conv(dim, out, size, stride, size // 2, groups=groups, bias=False),
                                   "norm": BatchNorm(out)}
    return Chain(**parts) if act is None else Chain(**parts, act=act)


class DepthwiseMlp(nn.Module):
    """An Mlp whose hidden channels each pass a 3 x 3 convolution: (B, H, W, C) -> same.

    The zeros around the map tell a token how near it is to the edge, which replaces positions. first: what comes
    between the first layer and the convolution.
    """

    def __init__(self, dim: int, hidden: int, *, first: nn.Module | None = None):
        super().__init__()
        self.fc1, self.first = nn.Linear(dim, hidden), first or nn.Identity()
        self.conv = Conv(hidden, hidden, 3, padding=1, groups=hidden)
        self.act, self.fc2 = Gelu(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.first(self.fc1(x)))
        return recompute(self._behind, x) if self.training else self._behind(x)

    def _behind(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(x))


class SqueezeExcite(nn.Module):
    """x · gate(mean of x over the map), a gate a channel (Hu et al., arXiv:1709.01507, section 3).

    The mean passes two 1 x 1 convolutions, `act` between them and `gate` behind them: (B, H, W, C) -> same.
    """

    def __init__(self, dim: int, hidden: int, *, act: nn.Module, gate: nn.Module):
        super().__init__()
        self.reduce, self.act, self.expand, self.gate = Conv(dim, hidden, 1), act, Conv(hidden, dim, 1), gate

    def forward(self, x: Tensor) -> Tensor:                                             # (B, H, W, C)
        weight = self.gate(self.expand(self.act(self.reduce(x.mean((1, 2), keepdim=True)))))     # (B, 1, 1, C)
        return x * weight


def round_width(width: float, multiple: int) -> int:
    """The nearest multiple, at least one, and the next one where that would lose more than a tenth (the published
    code of the MobileNets)."""
    found = max(multiple, int(width + multiple / 2) // multiple * multiple)
    return found + multiple if found < 0.9 * width else found
