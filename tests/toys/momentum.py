"""A toy task in one file: a momentum encoder learns from a folder of images that nobody labelled (as MoCo v3,
arXiv:2104.02057, in small), with any backbone of the catalogue. `--plugin tests/toys/momentum.py --task
toy_momentum`."""
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toys.shared import PlainEvaluation, describe
from vitrail.core.config import ModelConfig, Preprocessing
from vitrail.core.score import Metric, Score
from vitrail.core.settings import part
from vitrail.core.task import Options, Task, register_task
from vitrail.data.batch import Batch, seed_sample
from vitrail.data.formats.images import open_images
from vitrail.data.inputs import read_images
from vitrail.data.loader import Loader
from vitrail.data.settings import Augmentation, ImageData
from vitrail.data.split import Splits, split
from vitrail.data.transforms import evaluation_transform, training_transform
from vitrail.models import create_model, save_model
from vitrail.nn import mean_map
from vitrail.training.model_settings import BackboneSettings
from vitrail.training.settings import RunSettings, TrainSettings

QUEUE = 32


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> embeddings (B, C) of length 1; beside it the copy that follows, and a queue of its
    keys."""

    def __init__(self, backbone: nn.Module, config: ModelConfig):
        super().__init__()
        self.config, self.backbone = config, backbone
        self.slow = copy.deepcopy(backbone).requires_grad_(False)
        width = backbone.channels[-1]
        keys = torch.randn(QUEUE, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("queue", F.normalize(keys))
        self.register_buffer("keys", torch.zeros(QUEUE, width))

    def forward(self, images: Tensor) -> Tensor:
        return embedded(self.backbone, images)


def embedded(backbone: nn.Module, images: Tensor) -> Tensor:
    return F.normalize(mean_map(backbone(images)), dim=1)


@dataclass(frozen=True, kw_only=True)
class MomentumSpec:
    preprocessing: Preprocessing = Preprocessing(size=(32, 32))

    def constructor_arguments(self, variant: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(preprocessing=Preprocessing.from_json(data["preprocessing"]))


def make_spec(name: str, variant: Any, arguments: Mapping[str, Any], release: Any) -> MomentumSpec:
    side = arguments.get("image", 32)
    return MomentumSpec(preprocessing=Preprocessing(size=(side, side), crop=1.0))


@dataclass(frozen=True, kw_only=True)
class MomentumSettings(RunSettings):
    """What a momentum encoder is told."""

    model: BackboneSettings = part(BackboneSettings, name="vit_ti16",
                                   set=("image=32", "patch=8", "dim=32", "depth=2", "heads=2"))
    data: ImageData = part(ImageData, size=32)
    training: TrainSettings = part(TrainSettings, epochs=3, batch=8, lr=1e-3, threads=1)


@dataclass
class Views(Batch):
    """Two views of each image, (B, 3, H, W)."""

    one: Tensor
    two: Tensor


@dataclass(frozen=True)
class TwoViews:
    transform: Any
    seed: int

    def __call__(self, dataset: Any, indices: Sequence[int], epoch: int, mine: slice) -> Views:
        views = []
        for index in indices[mine]:
            image = dataset.image(index)
            seed_sample(self.seed, epoch, index)
            views.append((self.transform(image), self.transform(image)))
        one, two = (torch.stack(side) for side in zip(*views, strict=True))
        return Views(indices=torch.tensor(indices[mine]), one=one, two=two)


def open_splits(settings: MomentumSettings) -> Splits:
    images = open_images(Path(settings.data.source))
    return split(images, fraction=settings.data.val_fraction, seed=settings.training.seed)


class MomentumObjective:
    headline = "spread"
    larger_is_better = True

    def __init__(self, settings: MomentumSettings, splits: Splits):
        self.settings, self.train, self.val = settings, splits.train, splits.val

    def build(self) -> Encoder:
        asked = self.settings.model
        built: Encoder = create_model(asked.name, task="toy_momentum", **asked.arguments())
        return built

    model = build

    def batches(self, rank: int, of: int) -> Loader[Views]:
        training = self.settings.training
        preprocessing = make_spec("", None, self.settings.model.arguments(), None).preprocessing
        transform = training_transform(preprocessing, Augmentation(scale=(0.5, 1.0), randaugment_ops=0, erase=0.0))
        return Loader(self.train, TwoViews(transform, training.seed), batch=training.batch, seed=training.seed,
                      shuffle=True, rank=rank, of=of, drop_last=True, workers=training.workers)

    def loss(self, model: Any, batch: Views, step: int) -> dict[str, Tensor]:
        query = model(batch.one)
        with torch.no_grad():
            keys = embedded(model.slow, batch.two)
            model.keys[:len(keys)] = keys
        scores = torch.cat([(query * keys).sum(1, keepdim=True), query @ model.queue.clone().T], 1) / 0.2
        return {"loss": F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))}

    def after_step(self, model: Any, step: int) -> None:
        for slow, fast in zip(model.slow.parameters(), model.backbone.parameters(), strict=True):
            slow.lerp_(fast, 0.05)
        count = self.settings.training.batch // self.settings.training.accumulate
        model.queue.copy_(torch.cat([model.keys[:count], model.queue])[:QUEUE])

    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        return {"spread": spread(model, self.val), "samples": float(len(self.val))}

    def describe(self) -> dict[str, Any]:
        return describe("toy_momentum", self.train, self.val)

    def names(self, batch: Views) -> list[str]:
        return [self.train.key(i) for i in batch.indices.tolist()]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(model, folder, overwrite=True)


@torch.no_grad()
def spread(model: Any, dataset: Any) -> float:
    """How much embeddings of different images differ: 0 where the encoder says the same of all."""
    transform = evaluation_transform(model.config.spec.preprocessing)
    images = torch.stack([transform(dataset.image(i)) for i in range(len(dataset))])
    return float(1 - model.eval().cpu()(images).mean(0).square().sum())


def evaluate(model: nn.Module, dataset: Any, options: Options) -> PlainEvaluation:
    return PlainEvaluation(about=f"{model.config.model} on {dataset.name}", samples=len(dataset),
                           scores={"spread": Score(spread(model, dataset))})


def read_inputs(config: ModelConfig, data: Any, *, most: int = 32, size: Any = None) -> Iterator[Tensor]:
    preprocessing = config.spec.preprocessing
    transform = evaluation_transform(replace(preprocessing, size=size or preprocessing.size))
    for number, (_, image) in enumerate(read_images(data)):
        if number < most and isinstance(image, Tensor):
            yield transform(image)


TASK = register_task(Task(
    name="toy_momentum", about="learns from images alone", metrics={"spread": Metric(label="spread")},
    headline="spread", settings=MomentumSettings, spec=MomentumSpec, make_spec=make_spec,
    build=lambda config, network: Encoder(network, config), splits=open_splits,
    open=lambda text, *more, **options: open_images(Path(text)), objective=MomentumObjective, evaluate=evaluate,
    example_inputs=lambda config, batch=1, size=None: torch.zeros(
        batch, 3, *(size or config.spec.preprocessing.size)), read_inputs=read_inputs))
