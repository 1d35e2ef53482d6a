"""A small learning problem that follows the Objective protocol: nine kinds of stripes, a two-block transformer."""
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrail.core.seeds import derive_seed
from vitrail.nn import PatchEmbed, Prefix, SelfAttention, Stack, transformer_block

SAMPLES, CLASSES = 44, 3        # five batches of 8, and four samples left out of each epoch


@dataclass
class ToyBatch:
    images: Tensor
    labels: Tensor
    names: list[str]
    epoch: int

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "ToyBatch":
        return ToyBatch(self.images.to(device), self.labels.to(device), self.names, self.epoch)


class ToyNet(nn.Module):
    """(B, 3, 8, 8) -> (B, classes), with a batch norm in it where asked."""

    def __init__(self, *, drop: float, norm: bool):
        super().__init__()
        self.patch_embed, self.prefix = PatchEmbed(4, 8), Prefix(1, 8)
        self.blocks = Stack(transformer_block(SelfAttention(8, 2), 8, 2.0, drop) for _ in range(2))
        self.norm = nn.BatchNorm1d(8) if norm else nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.prefix(self.patch_embed(image).flatten(1, 2)))
        return self.head(self.norm(x[:, 0]))


def stripes() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(7)
    labels = torch.arange(SAMPLES) % CLASSES
    waves = torch.sin(torch.arange(8.0)[None] * (labels[:, None] + 1))
    return waves[:, None, None, :] + 0.8 * torch.randn(SAMPLES, 3, 8, 8, generator=made), labels


@dataclass
class Toy:
    """What can go wrong on request.

    poison: a sample that is not a number from its second epoch on. nap: seconds each evaluation takes; deaf: the same
    without a forward pass. selfterm, selfkill: the step in which the last process sends itself a signal.
    """

    seed: int = 0
    batch: int = 8
    drop: float = 0.3
    norm: bool = False
    poison: int = -1
    nap: float = 0.0
    deaf: float = 0.0
    selfterm: int = -1
    selfkill: int = -1
    data: str = "stripes"
    headline: str = "accuracy"
    larger_is_better: bool = True
    losses: list[float] = field(default_factory=list)

    def model(self) -> nn.Module:
        return ToyNet(drop=self.drop, norm=self.norm)

    def batches(self, rank: int, of: int) -> "ToyBatches":
        return ToyBatches(self, rank, of)

    def loss(self, model: nn.Module, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        last = int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
        if last and step in (self.selfterm, self.selfkill):
            os.kill(os.getpid(), signal.SIGTERM if step == self.selfterm else signal.SIGKILL)
        logits = model(batch.images)
        return {"loss": F.cross_entropy(logits, batch.labels), "spread": logits.std()}

    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        images, labels = (t[rank::of].to(device) for t in stripes())
        time.sleep(self.deaf)
        deadline = time.monotonic() + self.nap
        while time.monotonic() < deadline:
            model(images[:1])
        logits = model(images)
        found = torch.stack([(logits.argmax(1) == labels).sum().double(),
                             F.cross_entropy(logits, labels, reduction="sum").double()])
        if of > 1:
            dist.all_reduce(found)
        return {"accuracy": found[0].item() / SAMPLES, "nll": found[1].item() / SAMPLES}

    def describe(self) -> dict[str, Any]:
        return {"fingerprint": self.data, "samples": SAMPLES}

    def names(self, batch: ToyBatch) -> list[str]:
        return batch.names

    def save(self, model: nn.Module, folder: Path) -> None:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"classes": CLASSES}))


class ToyBatches:
    def __init__(self, toy: Toy, rank: int, of: int):
        self.toy, self.rank, self.of = toy, rank, of

    def __len__(self) -> int:
        return SAMPLES // self.toy.batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[ToyBatch]:
        images, labels = stripes()
        generator = torch.Generator().manual_seed(derive_seed(self.toy.seed, "order", epoch))
        order = torch.randperm(SAMPLES, generator=generator)
        size = self.toy.batch // self.of
        for step in range(start, len(self)):
            at = step * self.toy.batch + self.rank * size
            picked = order[at:at + size]
            batch = ToyBatch(images[picked], labels[picked], [f"stripe-{i}" for i in picked.tolist()], epoch)
            if epoch > 0 and self.toy.poison in picked:
                batch.images[picked == self.toy.poison] = float("nan")
            yield batch
