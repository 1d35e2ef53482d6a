"""Initialisation as explicit calls, at the end of a paper's constructor."""
import math

from torch import nn

from vitrail.nn.attention import Split
from vitrail.nn.blocks import Mlp
from vitrail.nn.maps import Prefix
from vitrail.nn.positions import PositionTable, RelativeBias


def truncated_linears(module: nn.Module, std: float = 0.02) -> None:
    """Every linear weight below `module` from a normal of deviation `std`, every linear bias 0 (DeiT, Swin).

    The cut at ±2 of the published code is an absolute bound, which a deviation of 0.02 never meets.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def truncated(module: nn.Module, std: float = 0.02) -> None:
    """As `truncated_linears`, and every learned token and table of positions or offsets alike."""
    truncated_linears(module, std)
    for part in module.modules():
        if isinstance(part, Prefix):
            nn.init.trunc_normal_(part.tokens, std=std)
        elif isinstance(part, PositionTable | RelativeBias):
            nn.init.trunc_normal_(part.table, std=std)


def normal_linears(module: nn.Module, std: float = 0.01) -> None:
    """Every linear weight below `module` from a normal of deviation `std`, every linear bias 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def zero_linears(module: nn.Module) -> None:
    """Every linear weight and bias below `module` 0: a head that knows nothing yet says so (ViT)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def xavier_linears(module: nn.Module) -> None:
    """Every linear weight below `module` Xavier-uniform, each part of a Split by itself; biases 0, in Mlps
    from a normal of deviation 1e-6 (ViT, in the official code's encoder)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, Split):
            for weight in part.proj.weight.data.chunk(part.parts):
                nn.init.xavier_uniform_(weight)
        if isinstance(part, Mlp):
            nn.init.normal_(part.fc1.bias, std=1e-6)
            nn.init.normal_(part.fc2.bias, std=1e-6)


def lecun_conv(conv: nn.Conv2d) -> None:
    """A convolution from a normal of variance 1 / fan-in cut at two deviations, bias 0: the default of JAX."""
    fan_in = conv.weight[0].numel()
    std = math.sqrt(1 / fan_in) / 0.87962566103423978       # the deviation of a unit normal cut at ±2
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def kaiming_convs(module: nn.Module, kind: type[nn.Conv2d] = nn.Conv2d) -> None:
    """Every convolution of this kind below `module` Kaiming-normal by fan-out for ReLU (He et al.,
    arXiv:1502.01852), its bias 0."""
    for part in module.modules():
        if isinstance(part, kind):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def fan_out_convs(module: nn.Module) -> None:
    """Every convolution below `module` from a normal of variance 2 / fan-out, bias 0; unlike in `kaiming_convs`, the
    fan-out is that within a group, so a depthwise one is born with weights of order one (EfficientNet, PVT v2)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.out_channels * part.weight[0, 0].numel() / part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
