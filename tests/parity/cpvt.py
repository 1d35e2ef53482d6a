"""CPVT, of which no code was released, against its parts in timm: DeiT without positions, and those of Twins."""
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.case import Case, timm_model
from tests.parity.pvt import padded

SIZES = ((224, 224), (160, 160), (128, 272), (250, 131))        # training, square, wide, odd


def _reference(size: str, tokens: int, depth: int) -> nn.Module:
    """A transformer with positions behind its first block, past the class token where it has one."""
    model: Any = timm_model(f"vit_{size}_patch16_224", class_token=bool(tokens), depth=depth, pos_embed="none",
                            global_pool="token" if tokens else "avg", fc_norm=False)
    from timm.models.twins import PosConv
    model.pos_block = PosConv(model.embed_dim, model.embed_dim)
    model.patch_embed.strict_img_size = False
    padded(model.patch_embed, 16)
    grid: list[int] = []

    def entering(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        grid[:] = [-(-side // 16) for side in args[0].shape[2:]]

    def behind(block: nn.Module, args: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return torch.cat([x[:, :tokens], model.pos_block(x[:, tokens:], grid)], 1)
    model.register_forward_pre_hook(entering)
    model.blocks[0].register_forward_hook(behind)
    assert isinstance(model, nn.Module)
    return model


def _case(name: str, size: str, *sizes: tuple[int, int], tokens: int = 1, depth: int = 2) -> Case:
    return Case(name=name, reference=lambda height, width: _reference(size, tokens, depth), sizes=sizes,
                changes={} if depth == 12 else {"depth": depth})


CASES = [
    _case("cpvt_ti16", "tiny", *SIZES, depth=12),
    _case("cpvt_ti16_gap", "tiny", *SIZES, depth=12, tokens=0),
    _case("cpvt_s16", "small", (130, 97)),
    _case("cpvt_s16_gap", "small", (130, 97), tokens=0),
    _case("cpvt_b16", "base", (130, 97)),
]
