"""LambdaResNets against timm: its own three live, the paper's as a ResNet of timm with timm's layer in each bottleneck.

timm rounds a strided map down, so where a layer is followed by a mean, its map must be even.
"""
from dataclasses import replace
from typing import Any

from torch import nn

from tests.parity.case import Case, timm_model
from vitrail.core.torchvision_guard import import_torchvision

# a lambda layer multiplies two things of its input, so that each one doubles the share that rounding has of it (in
# double precision all of these differ by 1e-14)
ONE, FEW = (1, 1, 1, 1), (1, 2, 2, 1)


def _reference(depths: tuple[int, ...], window: int) -> nn.Module:
    import_torchvision()
    from timm.layers.lambda_layer import LambdaLayer
    model: Any = timm_model("resnet50", layers=depths)
    for i, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
        for j, block in enumerate(layer):
            mixer = LambdaLayer(64 << i, num_heads=4, dim_head=16, r=window)
            block.conv2 = nn.Sequential(mixer, nn.AvgPool2d(3, 2, 1, count_include_pad=False) if i and not j else
                                        nn.Identity())
    return model


def _paper(depth: int, *sizes: tuple[int, int], depths: tuple[int, ...] = ONE, window: int = 23) -> Case:
    return Case(name=f"lambda_resnet_{depth}", reference=lambda height, width: _reference(depths, window), sizes=sizes,
                changes={"depths": depths, "window": window})


def _of_its_size(height: int, width: int) -> nn.Module:
    return timm_model("lambda_resnet26rpt_256", img_size=(height, width))


def _short(height: int, width: int) -> nn.Module:
    """Few blocks of timm's deepest: under noise, what the whole says hardly depends on the image."""
    import_torchvision()
    from timm.models.byoanet import model_cfgs
    from timm.models.byobnet import ByobNet
    cfg: Any = model_cfgs["lambda_resnet50ts"]
    first, second, third, last = cfg.blocks
    return ByobNet(replace(cfg, blocks=(replace(first, d=1), second[-1:], third[:2], last[1:2])))


CASES = [
    _paper(50, (64, 64), (96, 64), (61, 35)), _paper(50, (224, 224), window=7),
    _paper(50, (96, 64), depths=FEW, window=7),
    _paper(101, (64, 64)), _paper(152, (64, 64)), _paper(200, (64, 64)),
    Case(name="lambda_resnet_26t", reference=lambda height, width: timm_model("lambda_resnet26t"),
         sizes=((256, 256), (160, 160), (96, 224), (125, 90))),
    Case(name="lambda_resnet_26rpt", reference=_of_its_size, sizes=((256, 256), (128, 192)),
         at=lambda height, width: {"image": (height, width)}),
    Case(name="lambda_resnet_50ts", reference=_short, sizes=((256, 256), (96, 160)),
         changes={"depths": (1, 1, 2, 1), "lambdas": ((), (0,), (1,), (0,))}),
]
