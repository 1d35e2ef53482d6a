"""ResNet-RS against timm, with two blocks a stage: under noise, what a deeper one says hardly depends on the image."""
from tests.parity.case import Case, timm_model

FEW = (2, 2, 2, 2)
OFF = ((128, 128), (96, 200), (125, 67))                        # square, wide, odd


def _case(depth: int, *sizes: tuple[int, int]) -> Case:
    return Case(name=f"resnet_rs_{depth}", reference=lambda height, width: timm_model(f"resnetrs{depth}", layers=FEW),
                sizes=sizes, changes={"depths": FEW})


CASES = [
    _case(50, (160, 160), *OFF), _case(101, (192, 192)), _case(152, (125, 67)), _case(200, (125, 67)),
    _case(270, (125, 67)), _case(350, (125, 67)), _case(420, (125, 67)),
]
