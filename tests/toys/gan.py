"""A toy task in one file: a GAN that draws eight points on a circle, in two phases a step. `--plugin
tests/toys/gan.py`."""
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from tests.toys.shared import PlainEvaluation, Rows, batches, describe, open_splits
from vitrail.core.card import Figures, variant
from vitrail.core.catalogue import register_model
from vitrail.core.config import ModelConfig
from vitrail.core.score import Metric, Score
from vitrail.core.settings import part
from vitrail.core.task import Options, Task, register_task
from vitrail.data.split import Splits
from vitrail.models import create_model, save_model
from vitrail.training.objective import Phase
from vitrail.training.settings import RunSettings, TrainSettings

LATENT = 4


class Generator(nn.Module):
    """Noise (B, 4) -> points (B, 2)."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(LATENT, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
                                    nn.Linear(width, 2))

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise)


class Gan(nn.Module):
    """The generator that is used, and the discriminator that teaches it."""

    def __init__(self, generator: Generator, config: ModelConfig):
        super().__init__()
        self.generator, self.config = generator, config
        self.discriminator = nn.Sequential(nn.Linear(2, generator.width), nn.GELU(), nn.Linear(generator.width, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


@dataclass(frozen=True, kw_only=True)
class GanSpec:
    """Nothing but the noise, which is always alike."""

    def constructor_arguments(self, variant: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls()


@dataclass(frozen=True, kw_only=True)
class GanSettings(RunSettings):
    """What a toy GAN is told."""

    training: TrainSettings = part(TrainSettings, epochs=4, batch=16, lr=2e-3, threads=1)


def points(index: int) -> Tensor:
    angle = 2 * math.pi * (index % 8) / 8
    jitter = 0.05 * torch.randn(2, generator=torch.Generator().manual_seed(index))
    return torch.tensor([math.cos(angle), math.sin(angle)]) + jitter


class GanObjective:
    """Two phases (Goodfellow et al., arXiv:1406.2661): the discriminator learns, and then the generator."""

    headline = "distance"
    larger_is_better = False

    def __init__(self, settings: GanSettings, splits: Splits):
        self.settings, self.train, self.val = settings, splits.train, splits.val

    def build(self) -> nn.Module:
        return create_model(self.settings.model.name, **self.settings.model.arguments())

    model = build

    def batches(self, rank: int, of: int) -> Any:
        return batches(self, rank, of)

    def phases(self, model: nn.Module) -> tuple[Phase, ...]:
        return (Phase(name="discriminator", parameters=("discriminator.*",), loss=self.tell_apart),
                Phase(name="generator", parameters=("generator.*",), loss=self.deceive))

    def loss(self, model: Any, batch: Any, step: int) -> dict[str, Tensor]:
        return self.tell_apart(model, batch, step)

    def tell_apart(self, model: Any, batch: Any, step: int) -> dict[str, Tensor]:
        drawn = model(torch.randn(len(batch), LATENT))
        return {"loss": F.softplus(-model.discriminator(batch.rows)).mean()
                + F.softplus(model.discriminator(drawn)).mean()}

    def deceive(self, model: Any, batch: Any, step: int) -> dict[str, Tensor]:
        return {"loss": F.softplus(-model.discriminator(model(torch.randn(len(batch), LATENT)))).mean()}

    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        return {"distance": distance(model, self.val), "samples": float(len(self.val))}

    def describe(self) -> dict[str, Any]:
        return describe("toy_gan", self.train, self.val)

    def names(self, batch: Any) -> list[str]:
        return [self.train.key(i) for i in batch.indices.tolist()]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(model, folder, overwrite=True)


@torch.no_grad()
def distance(model: nn.Module, dataset: Any) -> float:
    """How far a drawn point is from the nearest real one, in the mean."""
    noise = torch.randn(64, LATENT, generator=torch.Generator().manual_seed(0))
    real = torch.stack([dataset.row(i) for i in range(len(dataset))])
    return float(torch.cdist(model(noise), real).amin(1).mean())


def evaluate(model: nn.Module, dataset: Any, options: Options) -> PlainEvaluation:
    return PlainEvaluation(about=f"{model.config.model} on {dataset.name}", samples=len(dataset),
                           scores={"distance": Score(distance(model.eval().cpu(), dataset))})


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A point."""

    key: str
    point: tuple[float, float] = (0.0, 0.0)
    error: str | None = None
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"prompt": self.key, "point": self.point}

    def rows(self) -> list[dict[str, str]]:
        return [{"prompt": self.key, "x": f"{self.point[0]:.3f}", "y": f"{self.point[1]:.3f}"}]

    def lines(self) -> list[str]:
        return [f"{self.point[0]:.3f} {self.point[1]:.3f}"]

    def notes(self) -> list[str]:
        return []

    def draw(self, image: Image.Image) -> Image.Image:
        page = image.copy()
        x, y = (int(32 + 24 * value) for value in self.point)
        ImageDraw.Draw(page).ellipse((x - 2, y - 2, x + 2, y + 2), fill="red")
        return page


def generate(model: nn.Module, prompts: list[str], options: Options | None = None,
             asked: Any = None) -> Iterator[Drawn]:
    """A point for each prompt, which is a seed."""
    for prompt in prompts or ["0"]:
        noise = torch.randn(1, LATENT, generator=torch.Generator().manual_seed(int(prompt)))
        with torch.no_grad():
            x, y = model.eval()(noise)[0].tolist()
        yield Drawn(key=prompt, point=(x, y))


def read_inputs(config: ModelConfig, data: Any, *, most: int = 32, size: Any = None) -> Iterator[Tensor]:
    for number in range(min(most, 8)):
        yield torch.randn(LATENT, generator=torch.Generator().manual_seed(number))


TASK = register_task(Task(
    name="toy_gan", about="draws points on a circle", headline="distance",
    metrics={"distance": Metric(label="distance", larger_is_better=False)}, settings=GanSettings,
    spec=GanSpec, takes="text",
    make_spec=lambda name, variant, arguments, release: GanSpec(), build=lambda config, network: Gan(network, config),
    splits=lambda settings: open_splits(settings, "circle", points),
    open=lambda text, *more, **options: Rows(text, points),
    objective=GanObjective, evaluate=evaluate, generate=generate,
    example_inputs=lambda config, batch=1, size=None: torch.zeros(batch, LATENT), read_inputs=read_inputs))
register_model("toy_gan", variant(Generator, Figures(params=1_282, gflops=0.0)), tasks=("toy_gan",))
