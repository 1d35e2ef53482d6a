"""MobileNetV2 against timm and torchvision."""
from torch import nn

from tests.parity.case import Case, settled, timm_model
from vitrail.core.torchvision_guard import import_torchvision

SIZES = ((224, 224), (160, 160), (96, 200), (125, 67))          # training, square, wide, odd


def _timm(name: str, *sizes: tuple[int, int]) -> Case:
    def build(height: int, width: int) -> nn.Module:
        return timm_model(name)
    return Case(name=name, reference=build, sizes=sizes, output=settled)


def _torchvision(name: str, factor: float, *sizes: tuple[int, int]) -> Case:
    def build(height: int, width: int) -> nn.Module:
        import_torchvision()
        from torchvision.models import mobilenet_v2
        return mobilenet_v2(width_mult=factor)
    return Case(name=name, reference=build, sizes=sizes, output=settled, keys="official")


CASES = [
    _timm("mobilenetv2_100", *SIZES), _torchvision("mobilenetv2_100", 1.0, *SIZES),
    _timm("mobilenetv2_035", *SIZES), _timm("mobilenetv2_050", (125, 67)), _timm("mobilenetv2_075", (125, 67)),
    _timm("mobilenetv2_140", (125, 67)), _torchvision("mobilenetv2_140", 1.4, (125, 67)),
    _timm("mobilenetv2_110d", (125, 67)), _timm("mobilenetv2_120d", (125, 67)),
]
