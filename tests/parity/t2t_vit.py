"""T2T-ViT and its other bodies against the official code, recorded.

That code asks for square images that 16 divides. At other sizes its parts run on maps of their true height and width,
the image padded to multiples of 4, and its table of positions has as many places as there are tokens.
"""
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Recorded
from vitrail.core.torchvision_guard import import_torchvision

SOURCE = "yitu-opensource/T2T-ViT@0f63dc9558f4d192de926504dbddfa1b3f5db6ca: models/"
FILES = {"se": "t2t_vit_se.py", "ghost": "t2t_vit_ghost.py", "dense": "t2t_vit_dense.py"}


def _official(code: Path, name: str, size: tuple[int, int], changes: Mapping[str, Any]) -> nn.Module:
    sys.path.insert(0, str(code))
    import_torchvision()
    import models  # type: ignore[import-not-found]
    if "depths" in changes:
        model = models.t2t_vit_dense.__globals__["T2T_ViT_Dense"](
            growth_rate=64, block_config=changes["depths"], embed_dim=128, num_heads=8, mlp_ratio=2.0)
    else:
        told = {"token_dim": changes["inner"]} if "inner" in changes else {}
        model = getattr(models, name.removesuffix("_384"))(img_size=size[0], **told)
    model.blocks = model.blocks[:changes.get("depth")]
    if size[0] != size[1] or size[0] % 16:
        places = 1 + -(-size[0] // 16) * -(-size[1] // 16)
        model.pos_embed = nn.Parameter(torch.zeros(1, places, model.pos_embed.shape[2]), requires_grad=False)
        model.tokens_to_token.forward = lambda image: _tokens(model.tokens_to_token, image)
    assert isinstance(model, nn.Module)
    return model


def _tokens(module: Any, image: Tensor) -> Tensor:
    """The official splits and layers, in their order, on maps that need not be square."""
    x = F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4))
    grid = [side // 4 for side in x.shape[2:]]
    for split, layer in ((module.soft_split0, module.attention1), (module.soft_split1, module.attention2)):
        x = layer(split(x).mT).mT.unflatten(2, grid)
        grid = [-(-side // 2) for side in grid]
    x = module.project(module.soft_split2(x).mT)
    assert isinstance(x, Tensor)
    return x


def _case(name: str, *sizes: tuple[int, int], trained_at: int = 224, **changes: Any) -> Recorded:
    return Recorded(name=name, source=SOURCE + FILES.get(name.rpartition("_")[2], "t2t_vit.py"), sizes=sizes,
                    changes=changes, official=lambda code, h, w: _official(code, name, (h, w), changes),
                    at=lambda h, w: {} if (h, w) == (trained_at, trained_at) else {"image": (h, w)})


CASES = [
    _case("t2t_vit_7", (224, 224), (160, 160), (128, 272), (250, 131)),         # training, square, wide, odd
    # under noise the features of 64 channels are so small that the quotient is zero; those of 8 are alive
    _case("t2t_vit_7", (224, 224), (99, 67), depth=2, inner=8),
    _case("t2t_vit_10", (96, 96), depth=2),
    _case("t2t_vit_12", (96, 96), depth=2),
    _case("t2t_vit_14", (224, 224), (99, 67), depth=2),
    _case("t2t_vit_14_384", (384, 384), trained_at=384, depth=2),
    _case("t2t_vit_19", (99, 67), depth=2),
    _case("t2t_vit_24", (99, 67), depth=2),
    _case("t2t_vit_t_14", (224, 224)),
    _case("t2t_vit_t_14", (160, 160), (99, 67), depth=2),
    _case("t2t_vit_t_19", (99, 67), depth=2),
    _case("t2t_vit_t_24", (99, 67), depth=2),
    _case("t2t_vit_14_wide", (224, 224)),
    _case("t2t_vit_14_resnext", (99, 67), depth=2),
    _case("t2t_vit_14_se", (224, 224), (99, 67), depth=2),
    _case("t2t_vit_16_ghost", (224, 224), (99, 67), depth=2),
    _case("t2t_vit_dense", (224, 224)),
    _case("t2t_vit_dense", (99, 67), depths=(2, 3, 1)),
]
