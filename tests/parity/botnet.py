"""BoTNet against a ResNet of timm with timm's attention in its last stage: nobody released a whole network.

The paper scales the term of positions with the other one (`scale_pos_embed`), and the authors' gist activates the
projected way past a block of attention. timm's attention is of one size, which ours is then built for; `test_botnet`
asks what happens at others.
"""
from functools import partial
from typing import Any

from torch import nn

from tests.parity.case import Case, timm_model
from vitrail.core.torchvision_guard import import_torchvision

FEW = (1, 2, 2, 2)


def _reference(height: int, width: int, *, last_stride: int, squeeze: bool) -> nn.Module:
    import_torchvision()
    from timm.layers import SEModule
    from timm.layers.bottleneck_attn import BottleneckAttn
    act = nn.SiLU if squeeze else nn.ReLU
    block = dict(attn_layer=partial(SEModule, rd_ratio=1 / 16)) if squeeze else {}
    model: Any = timm_model("resnet50", layers=FEW, act_layer=act, block_args=block)
    at = -(-height // 16), -(-width // 16)
    for i, part in enumerate(model.layer4):
        stride = last_stride if i == 0 else 1
        part.conv2, part.se = BottleneckAttn(512, 512, feat_size=at, stride=stride, scale_pos_embed=True), None
        at = at[0] // stride, at[1] // stride
    part = model.layer4[0]
    part.downsample[0].stride = (last_stride, last_stride)
    part.downsample.append(act())
    return model


def _case(name: str, *sizes: tuple[int, int], last_stride: int = 1, squeeze: bool = True) -> Case:
    return Case(name=name, reference=partial(_reference, last_stride=last_stride, squeeze=squeeze), sizes=sizes,
                changes={"depths": FEW}, at=lambda height, width: {"image": (height, width)})


CASES = [
    _case("botnet_50", (224, 224), (128, 128), (64, 224), last_stride=2, squeeze=False),
    _case("botnet_s1_50", (224, 224), (125, 67), squeeze=False),
    _case("botnet_s1_59", (224, 224), (160, 160), (96, 200), (125, 67)),
    _case("botnet_s1_110", (125, 67)),
    _case("botnet_s1_128", (256, 256)),
    _case("botnet_s1_77", (320, 320)),
    _case("botnet_s1_128_384", (160, 96)),
]
