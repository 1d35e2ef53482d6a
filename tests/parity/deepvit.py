"""DeepViT against the authors' code, which runs at its size of construction."""
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from tests.parity.case import Recorded
from tests.parity.case_legacy import legacy, padded, up

SOURCE = "zhoudaquan/dvit_repo@1ccb152cea43fcbc3cd517a45c12c65734f8ace3: models/deep_vision_transformer.py"


def _case(name: str, reference: str, *sizes: tuple[int, int], kept: tuple[int, ...] = (),
          changes: Mapping[str, int] = {}) -> Recorded:
    """kept: the reference's blocks that remain where ours is shorter too."""
    def official(code: Path, height: int, width: int) -> nn.Module:
        build, size = getattr(legacy(code, "models.deep_vision_transformer"), reference), (up(height), up(width))
        model: nn.Module = build() if size == (384, 384) else build(img_size=size)
        if kept:
            model.blocks = nn.ModuleList(model.get_submodule(f"blocks.{i}") for i in kept)
        return model
    return Recorded(name=name, source=SOURCE, official=official, sizes=sizes, changes=changes, output=padded,
                    at=lambda height, width: {"image": (height, width)})


SHORT = {"depth": 3, "plain": 2}
CASES = [
    _case("deepvit_16b", "deepvit_patch16_224_re_attn_16b", (224, 224), (160, 160), (128, 272), (250, 131)),
    _case("deepvit_24b", "deepvit_patch16_224_re_attn_24b", (224, 224), kept=(0, 23), changes={"depth": 2}),
    _case("deepvit_32b", "deepvit_patch16_224_re_attn_32b", (224, 224), kept=(0, 31), changes={"depth": 2}),
    _case("deepvit_s", "deepvit_S", (224, 224), (250, 131)),
    _case("deepvit_l", "deepvit_L", (224, 224), (130, 97), kept=(0, 19, 20), changes=SHORT),
    _case("deepvit_l_384", "deepvit_L_384", (384, 384), kept=(0, 19, 20), changes=SHORT),
]
