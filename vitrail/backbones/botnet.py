"""BoTNet: a ResNet whose last stage attends over the whole map in the place of its 3 x 3 convolutions.

Srinivas et al., CVPR 2021, arXiv:2101.11605. The authors published the attention and its block, as a gist; the sizes
are the paper's. A T-model is an S1 with SiLU, and with squeeze-and-excitation in its convolutional blocks (section
4.8.4); the gist shows that a projected way past a block of attention is activated, too.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.resnet import Bottleneck, Names, ResNetBody, Stem, pooled, torchvision
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import AS_CONV, Row
from vitrail.nn import Attend, Conv, Split, SqueezeExcite, conv_norm, grid_of
from vitrail.positions.relative_2d import RelativeLogits2d

PAPER = Paper(title="Bottleneck Transformers for Visual Recognition", arxiv="2101.11605", authors="Srinivas et al.",
              year=2021, venue="CVPR", builds_on=("backbones.resnet", "positions.relative_2d"),
              ideas=(Idea("backbones.resnet", "figure 1", "the bottleneck whose convolution is replaced"),
                     Idea("foundations.transformer", "figure 3", "its block, read as a bottleneck"),
                     Idea("positions.relative_2d", "method", "relative places of rows and columns")))


class BottleneckAttention(nn.Module):
    """softmax((q kᵀ + q rᵀ) / √D) v over all places (figure 4), r being a row's and a column's vector of the offset.

    Nothing is projected afterwards: the block's 1 x 1 convolution follows. Born as the gist's, which by its own word
    mistakes the tables' deviation, D^-1/2, for their mean; here it is the deviation. (B, h, w, C) -> (B, h, w, C).
    """

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, int]):
        super().__init__()
        self.qkv, self.attend = Split(dim, heads, 3, bias=False), Attend()
        self.position = RelativeLogits2d(grid, dim // heads)
        nn.init.normal_(self.qkv.proj.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        grid = (x.shape[1], x.shape[2])
        q, k, v = self.qkv(x.flatten(1, 2))                                             # (B, H, N, D)
        q, k = self.position.widen(q * q.shape[-1] ** -0.5, k, grid)                    # (B, H, N, E)
        y = self.attend(q, k, v, scale=1.0)                                             # (B, H, N, D)
        return y.transpose(1, 2).flatten(2).unflatten(1, grid)


class BoTNet(ResNetBody):
    """A ResNet with attention in its last stage (table 1), which `last_stride` halves the map or leaves it (S1).

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16 and 16 `last_stride`. The tables of offsets
    are of `image`; for other sizes they are resampled. `squeeze`: a T-model. Raises ModelError for another stride.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, dim: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3),
                 heads: int = 4, last_stride: int = 1, squeeze: bool = False, in_chans: int = 3,
                 drop_path: float = 0.0):
        if last_stride not in (1, 2):
            raise ModelError(f"the last stage strides by 1 or 2, not by {last_stride}")
        last = len(depths) - 1
        act = nn.SiLU if squeeze else nn.ReLU

        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            out = Bottleneck.expansion * dim
            if stage < last:
                weigh = SqueezeExcite(out, out // 16, act=nn.ReLU(), gate=nn.Sigmoid()) if squeeze else None
                return Bottleneck(width, dim, stride, drop, act=act(), squeeze=weigh)
            stride = min(stride, last_stride)
            grid = grid_of(image, (2 << last) * last_stride // stride)
            middle = pooled(BottleneckAttention(dim, heads, grid=grid), 2, stride)
            past = nn.Identity() if width == out else conv_norm(width, out, 1, stride, act=act())
            return Bottleneck(width, dim, stride, drop, middle=middle, act=act(), past=past)
        super().__init__(Stem(dim, in_chans=in_chans, act=act()), dim, depths, drop_path, block)
        self.strides = (*self.strides[:-1], (2 << last) * last_stride)
        for part in self.stages[-1].modules():                      # the gist's part: by fan-in
            if isinstance(part, Conv):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")


def _size(params: int, gflops: float, reported: Mapping[str, float], *, image: int = 224,
          **args: Any) -> Variant[BoTNet]:
    """The paper counts squeeze-and-excitation in the blocks of attention, too, which have none: 0.52 M each."""
    return variant(BoTNet, Figures(params=params, gflops=gflops, image=image, reported=reported, where="section 4.8"),
                   image=image, **args)


_128: dict[str, Any] = dict(depths=(3, 4, 23, 12), squeeze=True)

# the S1-50's reported cost is below what its last stage needs at this stride; those of the T-models agree
botnet_50 = _size(20_852_008, 4.034, {"params_m": 20.8}, last_stride=2)
botnet_s1_50 = _size(20_859_176, 5.444, {"params_m": 20.8, "gflops": 4.27})
# T3, T4, T5, T6, T7
botnet_s1_59 = _size(30_500_696, 7.300, {"params_m": 33.5, "gflops": 7.3}, depths=(3, 4, 6, 6), squeeze=True)
botnet_s1_110 = _size(51_739_544, 11.015, {"params_m": 54.7, "gflops": 10.9}, depths=(3, 4, 23, 6), squeeze=True)
botnet_s1_128 = _size(69_131_672, 19.500, {"params_m": 75.1, "gflops": 19.3}, image=256, **_128)
botnet_s1_77 = _size(47_917_400, 23.935, {"params_m": 53.9}, image=320, depths=(3, 4, 6, 12), squeeze=True)
botnet_s1_128_384 = _size(69_180_824, 47.323, {"params_m": 75.1, "gflops": 45.8}, image=384, **_128)


def _names(there: str, here: str) -> Names:
    """Those of a block too, which is weighed where nothing attends."""
    block, ours = there.removesuffix("conv2."), here.removesuffix("conv2.")
    return ({block + "se.fc1.*": ours + "squeeze.reduce.*", block + "se.fc2.*": ours + "squeeze.expand.*",
             there + "pos_embed.height_rel": here + "mixer.position.rows",
             there + "pos_embed.width_rel": here + "mixer.position.columns"},
            [Row((there + "qkv.weight",), here + "mixer.qkv.proj.weight", AS_CONV)])


# nobody released tensors: the names that timm's ResNet has with timm's attention in it
KEYS = {"timm": lambda settings: torchvision(settings, _names)}
