"""BEiT against timm, whose tables are made for one size; the authors' own names against answers of their code."""
import importlib
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case, Recorded, stand_in, timm_model
from vitrail.core.torchvision_guard import import_torchvision

SHORT: Mapping[str, int] = {"depth": 2}
SIZES = ((224, 224), (160, 160), (96, 200), (131, 75))          # training, square, wide, odd


def _padded(model: nn.Module, image: Tensor) -> Tensor:
    """The reference refuses what patches do not divide; ours pads."""
    out = model(F.pad(image, (0, -image.shape[3] % 16, 0, -image.shape[2] % 16)))
    assert isinstance(out, Tensor)
    return out


def _case(name: str, reference: str, *sizes: tuple[int, int], changes: Mapping[str, int] = {}) -> Case:
    def build(height: int, width: int) -> nn.Module:
        return timm_model(reference, img_size=(height + -height % 16, width + -width % 16), **changes)
    return Case(name=name, reference=build, sizes=sizes, changes=changes, output=_padded,
                at=lambda height, width: {"image": (height, width)})


def _official(code: Path, height: int, width: int) -> nn.Module:
    import_torchvision()
    from timm import layers
    stand_in("timm.models.layers", trunc_normal_=layers.trunc_normal_, to_2tuple=layers.to_2tuple,
             drop_path=layers.drop_path)
    stand_in("timm.models.registry", register_model=lambda build: build)
    sys.path.insert(0, str(code))
    model = importlib.import_module("modeling_finetune").VisionTransformer(
        img_size=height, depth=2, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), init_values=0.1,
        use_abs_pos_emb=False, use_rel_pos_bias=True)           # as its command for fine-tuning builds it
    assert isinstance(model, nn.Module)
    return model


CASES = [
    _case("beit_b16", "beit_base_patch16_224", *SIZES, changes={"depth": 3}),
    _case("beit_b16_384", "beit_base_patch16_384", (384, 384), (131, 75), changes=SHORT),
    _case("beit_l16", "beit_large_patch16_224", (224, 224), (131, 75), changes=SHORT),
    _case("beit_l16_384", "beit_large_patch16_384", (384, 384), changes=SHORT),
    _case("beit_l16_512", "beit_large_patch16_512", (512, 512), changes=SHORT),
    Recorded(name="beit_b16", source="microsoft/unilm@768a3c873f598bb9b4d4dfb9267b099e35f8fe56: "
                                     "beit/modeling_finetune.py", official=_official, sizes=((224, 224),),
             changes=SHORT, drop=("relative_position_index",)),
]
