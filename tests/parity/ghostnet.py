"""GhostNet against timm."""
from torch import nn

from tests.parity.case import Case, timm_model

SIZES = ((224, 224), (160, 160), (96, 200), (125, 67))          # training, square, wide, odd


def _case(name: str, *sizes: tuple[int, int], keys: str = "timm") -> Case:
    def build(height: int, width: int) -> nn.Module:
        return timm_model(name)
    return Case(name=name, reference=build, sizes=sizes, keys=keys)


CASES = [_case("ghostnet_100", *SIZES), _case("ghostnet_100", (125, 67), keys="official"),
         _case("ghostnet_050", (224, 224), (125, 67)), _case("ghostnet_130", (224, 224), (125, 67))]
