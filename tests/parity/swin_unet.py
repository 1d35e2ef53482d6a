"""Swin-Unet against its official code, recorded: the finest map of its body, read by a linear layer of a classifier.

It is built for one size of image, whose maps windows of 7 have to divide. Recording needs the package einops.
"""
import contextlib
import io
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tests.parity.case import Recorded
from vitrail.core.torchvision_guard import import_torchvision

SOURCE = ("HuCaoFighting/Swin-Unet@f48f623e226e25b6e395c37207915c50aaa9c776: "
          "networks/swin_transformer_unet_skip_expand_decoder_sys.py")


def _official(code: Path, height: int, width: int) -> nn.Module:
    import_torchvision()
    sys.path.insert(0, str(code / "networks"))
    from swin_transformer_unet_skip_expand_decoder_sys import SwinTransformerSys
    with contextlib.redirect_stdout(io.StringIO()):
        # its segmentation head takes a square image, and is not asked
        model: nn.Module = SwinTransformerSys(img_size=height, embed_dim=96, depths=[2, 2, 2, 2],
                                              num_heads=[3, 6, 12, 24])
    model.head = nn.Linear(96, 1000)
    return model


def _classified(model: Any, image: Tensor) -> Tensor:
    logits: Tensor = model.head(model.forward_up_features(*model.forward_features(image)).mean(1))
    return logits


CASES = [Recorded(name="swin_unet", source=SOURCE, official=_official, sizes=((224, 224), (448, 448)),
                  output=_classified, drop=("attn_mask", "relative_position_index"))]
