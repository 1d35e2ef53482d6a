"""ResNet against timm and torchvision."""
from torch import nn

from tests.parity.case import Case, timm_model
from vitrail.core.torchvision_guard import import_torchvision

SIZES = ((224, 224), (160, 160), (96, 200), (125, 67))          # training, square, wide, odd


def _torchvision(height: int, width: int) -> nn.Module:
    import_torchvision()
    from torchvision.models import resnet50
    return resnet50()


CASES = [
    Case(name="resnet18", reference=lambda height, width: timm_model("resnet18"), sizes=SIZES),
    Case(name="resnet34", reference=lambda height, width: timm_model("resnet34"), sizes=((125, 67),)),
    Case(name="resnet50", reference=lambda height, width: timm_model("resnet50"), sizes=SIZES),
    Case(name="resnet50", reference=_torchvision, sizes=((224, 224), (125, 67)), keys="official"),
    Case(name="resnet101", reference=lambda height, width: timm_model("resnet101"), sizes=((125, 67),)),
    Case(name="resnet152", reference=lambda height, width: timm_model("resnet152"), sizes=((125, 67),)),
]
