"""ViT, DeiT and Scaling ViT against timm."""
from collections.abc import Mapping
from types import MappingProxyType

from tests.parity.case import Case, timm_model

SIZES = ((224, 224), (160, 160), (128, 272), (250, 131))        # training, square, wide, odd


def _case(name: str, reference: str, *, sizes: tuple[tuple[int, int], ...] = SIZES,
          changes: Mapping[str, int] = MappingProxyType({}), **theirs: object) -> Case:
    def build(height: int, width: int):
        return timm_model(reference, dynamic_img_size=True, dynamic_img_pad=True, **changes, **theirs)
    return Case(name=name, reference=build, sizes=sizes, changes=changes)


CASES = [
    _case("vit_ti16", "vit_tiny_patch16_224"),
    _case("vit_s32", "vit_small_patch32_224", sizes=((224, 224), (96, 200))),
    _case("vit_s16", "vit_small_patch16_224", sizes=((224, 224), (100, 300))),
    _case("vit_b16_384", "vit_base_patch16_384", sizes=((384, 384), (224, 224)), changes={"depth": 2}),
    _case("vit_l16", "vit_large_patch16_224", sizes=((224, 224), (130, 97)), changes={"depth": 2}),
    _case("vit_h14", "vit_huge_patch14_224", sizes=((224, 224), (130, 97)), changes={"depth": 2}, num_classes=1000),
    _case("deit_ti16", "deit_tiny_patch16_224", sizes=((224, 224), (130, 200))),
    _case("deit_ti16_distilled", "deit_tiny_distilled_patch16_224"),
    _case("deit_b16_384_distilled", "deit_base_distilled_patch16_384", sizes=((384, 384), (130, 97)),
          changes={"depth": 2}),
    _case("vit_giant14", "vit_giant_patch14_224", sizes=((224, 224), (99, 150)), changes={"depth": 1},
          class_token=False, global_pool="map"),
    _case("vit_gigantic14", "vit_gigantic_patch14_224", sizes=((224, 224), (99, 150)), changes={"depth": 1},
          class_token=False, global_pool="map"),
    *(_case(name, reference, sizes=((size, size), (130, 97)), changes={"depth": 2}, num_classes=1000)
      for name, reference, size in (
          ("vit_ti16_384", "vit_tiny_patch16_384", 384), ("vit_s32_384", "vit_small_patch32_384", 384),
          ("vit_s16_384", "vit_small_patch16_384", 384), ("vit_b32", "vit_base_patch32_224", 224),
          ("vit_b32_384", "vit_base_patch32_384", 384), ("vit_b16", "vit_base_patch16_224", 224),
          ("vit_b8", "vit_base_patch8_224", 224), ("vit_l32", "vit_large_patch32_224", 224),
          ("vit_l32_384", "vit_large_patch32_384", 384), ("vit_l16_384", "vit_large_patch16_384", 384),
          ("deit_s16", "deit_small_patch16_224", 224), ("deit_b16", "deit_base_patch16_224", 224),
          ("deit_b16_384", "deit_base_patch16_384", 384),
          ("deit_s16_distilled", "deit_small_distilled_patch16_224", 224),
          ("deit_b16_distilled", "deit_base_distilled_patch16_224", 224))),
]
