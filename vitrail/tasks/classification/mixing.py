"""Mixup and CutMix of pairs, as a pure function of the seed, the epoch and the two samples.

Samples 2k and 2k+1 of the global batch are mixed with each other, each by its own share of the other. A pair lies
in one process and one micro-batch, and its randomness comes from the two samples' indices. So neither the number of
processes, nor accumulation, nor a restart changes what is trained on.

Plans are drawn on the host when a batch is made, and travel with it: a step that only applies them compiles as one
graph, and waits for no device.
"""
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitrail.core.errors import SettingsError
from vitrail.core.seeds import derive_seed
from vitrail.tasks.classification.settings import Mixing

UNMIXED = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def check_pairs(*, batch: int, of: int, accumulate: int) -> None:
    """Raises SettingsError unless every process's every micro-batch holds whole pairs."""
    unit = 2 * of * accumulate
    if batch % unit:
        low, high = batch // unit * unit, -(-batch // unit) * unit
        raise SettingsError(f"mixup and cutmix mix pairs of images, so the batch must be a multiple of {unit} (2 "
                            f"images x {of} processes x {accumulate} micro-batches), and it is {batch}: "
                            f"use {f'{low} or ' if low else ''}{high}, or set mixup and cutmix to 0")


def draw(indices: Sequence[int], *, mixing: Mixing, seed: int, epoch: int, size: tuple[int, int]) -> Tensor:
    """The plan of each pair of neighbouring samples: (P, 6) float32 on the CPU.

    Its columns: the weight of a sample's own pixels outside the box; the weight of its own label; and the box that
    its partner fills, as top, bottom, left, right in pixels of ``size`` (height, width), ends excluded.
    Raises SettingsError for an odd number of samples.
    """
    if len(indices) % 2:
        raise SettingsError(f"mixup and cutmix mix pairs of images, and this micro-batch holds {len(indices)}: "
                            "choose a batch that leaves each process's micro-batch an even number")
    pairs = zip(indices[::2], indices[1::2], strict=True)
    plan = [_pair(np.random.default_rng(derive_seed(seed, "mix", epoch, a, b)), mixing, size) for a, b in pairs]
    return torch.tensor(plan, dtype=torch.float32).reshape(-1, 6)


def _pair(rng: np.random.Generator, mixing: Mixing, size: tuple[int, int]) -> tuple[float, ...]:
    # Four uniform numbers always, in this order: turning one kind on does not shift what another kind draws.
    chance, kind, row, column = rng.random(4)
    if not mixing.on or chance >= mixing.probability:
        return UNMIXED
    cut = mixing.mixup == 0 or (mixing.cutmix > 0 and kind < mixing.switch)
    alpha = mixing.cutmix if cut else mixing.mixup
    share = float(rng.beta(alpha, alpha))
    if not cut:
        return (share, share, 0.0, 0.0, 0.0, 0.0)
    # CutMix: a box of 1 - share of the area about a uniform centre (section 3.1). What falls outside the image is
    # lost, so the label's share is counted from the pixels that remain.
    side = math.sqrt(1 - share)
    top, bottom = _span(row, side, size[0])
    left, right = _span(column, side, size[1])
    return (1.0, 1 - (bottom - top) * (right - left) / (size[0] * size[1]), top, bottom, left, right)


def _span(centre: float, share: float, length: int) -> tuple[int, int]:
    wanted = round(share * length)
    start = math.floor(centre * length) - wanted // 2
    return max(start, 0), min(start + wanted, length)


def apply(images: Tensor, targets: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes images (B, 3, H, W) and probabilities (B, K) by a plan (B/2, 6); B is even. New tensors."""
    height, width = images.shape[-2:]
    plan = plan.to(images.device)
    pixels, share, top, bottom, left, right = plan[:, None, None, None, :].unbind(-1)           # (P, 1, 1, 1)
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)[None, :]
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)                              # (P, 1, H, W)
    weight = torch.where(inside, 0.0, pixels)[:, None]                                          # (P, 1, 1, H, W)
    own = images.unflatten(0, (-1, 2))
    mixed = torch.lerp(own.flip(1), own, weight.to(images.dtype))                               # exact at 0 and 1
    label = targets.unflatten(0, (-1, 2))
    blend = torch.lerp(label.flip(1), label, share[..., 0].to(targets.dtype))
    return mixed.flatten(0, 1), blend.flatten(0, 1)
