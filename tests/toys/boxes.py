"""A toy task in one file: squares in images of different sizes. `--plugin tests/toys/boxes.py` plugs it in."""
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from vitrail.core.card import Figures, variant
from vitrail.core.catalogue import register_model
from vitrail.core.config import ModelConfig, Preprocessing
from vitrail.core.errors import DataError
from vitrail.core.results import Excluded, Figure, Section, Tile
from vitrail.core.score import Metric, Score
from vitrail.core.settings import part
from vitrail.core.task import Options, Task, register_task
from vitrail.data.batch import Batch
from vitrail.data.dataset import DatasetBase, Sample
from vitrail.data.inputs import read_images
from vitrail.data.loader import Loader
from vitrail.data.split import Splits, split
from vitrail.explanation.api import explain_image
from vitrail.figures.pictures import png_of
from vitrail.measure.intervals import student_t
from vitrail.models import create_model, save_model
from vitrail.nn import Features, PatchEmbed, SelfAttention, Stack, transformer_block
from vitrail.ops.masks import pad_images, padded_size, padding_mask
from vitrail.training.settings import RunSettings, TrainSettings

STRIDE = 8


# the data: noise with bright squares, each image of its own size
class Squares(DatasetBase):
    """`squares:COUNT` images, made anew from their number whenever they are read."""

    def __init__(self, count: int):
        self.name, self.count = f"squares:{count}", count

    def __len__(self) -> int:
        return self.count

    def _drawn(self, index: int) -> tuple[Tensor, Tensor]:
        """An image uint8 (3, H, W), and its squares (M, 4): left, top, right, bottom, in pixels."""
        generator = torch.Generator().manual_seed(index)
        height, width = (8 * torch.randint(4, 8, (2,), generator=generator)).tolist()
        image = torch.randint(0, 60, (3, height, width), generator=generator, dtype=torch.uint8)
        squares = []
        for _ in range(1 + index % 2):
            side = int(torch.randint(8, 15, (1,), generator=generator))
            top = int(torch.randint(0, height - side, (1,), generator=generator))
            left = int(torch.randint(0, width - side, (1,), generator=generator))
            image[:, top:top + side, left:left + side] = 230
            squares.append([left, top, left + side, top + side])
        return image, torch.tensor(squares, dtype=torch.float32)

    def key(self, index: int) -> str:
        return f"square {index}"

    def image(self, index: int) -> Tensor:
        return self._drawn(index)[0]

    def targets(self, index: int) -> dict[str, Any]:
        return {"boxes": self._drawn(index)[1]}

    def read(self, index: int) -> Sample:
        return Sample(self.key(index), {"image": self.image(index)}, self.targets(index))

    def digest(self, index: int) -> str:
        return hashlib.sha256(self.image(index).numpy().tobytes()).hexdigest()


@dataclass
class Pictures(Batch):
    """images (B, 3, H, W), filled up; sizes (B, 2); boxes, of each image (M, 4). In the whole batch, of all processes
    and micro-batches: so many boxes and samples, by which the loss is divided."""

    images: Tensor
    sizes: Tensor
    boxes: list[Tensor]
    all_boxes: int
    all_samples: int


@dataclass(frozen=True)
class CollateSquares:
    """How squares become a batch."""

    def __call__(self, dataset: Any, indices: Sequence[int], epoch: int, mine: slice) -> Pictures:
        read = [dataset.read(index) for index in indices]
        size = padded_size(torch.tensor([sample.inputs["image"].shape[1:] for sample in read]), STRIDE)
        images, sizes = pad_images([_prepared(sample.inputs["image"]) for sample in read[mine]], size=size)
        return Pictures(indices=torch.tensor(indices[mine]), images=images, sizes=sizes,
                        boxes=[sample.targets["boxes"] for sample in read[mine]],
                        all_boxes=sum(len(sample.targets["boxes"]) for sample in read), all_samples=len(read))


def _prepared(image: Tensor) -> Tensor:
    return image.float() / 255 * 2 - 1


# the network
class Grid(nn.Module):
    """An image as one map of tokens that looked at each other: (B, 3, H, W) -> (B, ⌈H/8⌉, ⌈W/8⌉, dim)."""

    def __init__(self, dim: int = 32, depth: int = 2, heads: int = 2):
        super().__init__()
        self.channels, self.strides = (dim,), (STRIDE,)
        self.patch_embed = PatchEmbed(STRIDE, dim)
        self.blocks = Stack(transformer_block(SelfAttention(dim, heads), dim, 2, 0.0) for _ in range(depth))

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                     # (B, h, w, C)
        tokens = self.blocks(x.flatten(1, 2))                           # (B, N, C)
        return Features(maps=(tokens.view_as(x),))

    def make_head(self, classes: int) -> nn.Module:
        return nn.Linear(self.channels[0], classes)


class Inputs(NamedTuple):
    """images (B, 3, H, W); sizes (B, 2), of each before it was filled up."""

    images: Tensor
    sizes: Tensor


class Detections(NamedTuple):
    """Of each place: whether a square's centre lies there (B, N), and the square (B, N, 4), in pixels."""

    centres: Tensor
    boxes: Tensor


class FindSquares(nn.Module):
    """What stands in a place of the map: Features -> Detections."""

    def __init__(self, dim: int):
        super().__init__()
        self.out = nn.Linear(dim, 5)

    def forward(self, features: Features) -> Detections:
        x = features.maps[-1]                                           # (B, h, w, C)
        answer = self.out(x)                                            # (B, h, w, 5)
        rows = torch.arange(x.shape[1], device=x.device)
        columns = torch.arange(x.shape[2], device=x.device)
        middle = STRIDE * torch.stack([columns.expand(x.shape[1], -1), rows[:, None].expand(-1, x.shape[2])], -1) + 4.0
        centre = middle + STRIDE * answer[..., 1:3]
        half = STRIDE * F.softplus(answer[..., 3:5])
        boxes = torch.cat([centre - half, centre + half], -1)           # (B, h, w, 4)
        return Detections(answer[..., 0].flatten(1), boxes.flatten(1, 2))


class Detector(nn.Module):
    """Grid, and FindSquares on it; nothing is found where there is padding alone."""

    def __init__(self, backbone: nn.Module, config: ModelConfig):
        super().__init__()
        self.backbone, self.head, self.config = backbone, FindSquares(backbone.channels[0]), config

    def forward(self, images: Tensor, sizes: Tensor) -> Detections:
        found = self.head(self.backbone(images))
        hidden = padding_mask(sizes, (images.shape[2], images.shape[3]), STRIDE).flatten(1)
        return Detections(found.centres.masked_fill(hidden, -20.0), found.boxes)


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """How images are prepared."""

    preprocessing: Preprocessing = Preprocessing(size=(48, 48), mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0)

    def constructor_arguments(self, variant: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(preprocessing=Preprocessing.from_json(data["preprocessing"]))


# learning
@dataclass(frozen=True, kw_only=True)
class BoxSettings(RunSettings):
    """What a toy detector is told."""

    training: TrainSettings = part(TrainSettings, epochs=4, batch=8, lr=3e-3, threads=1)


def open_splits(settings: BoxSettings) -> Splits:
    return split(open_squares(settings.data.source), fraction=settings.data.val_fraction, seed=settings.training.seed)


def open_squares(text: str, options: Any = None, spec: Any = None, *, split: str = "") -> Squares:
    kind, _, count = text.partition(":")
    if kind != "squares" or not count.isdecimal():
        raise DataError(f"{text!r} is not squares:COUNT")
    return Squares(int(count))


class BoxObjective:
    """Binary cross-entropy of centres, and the distance of boxes, both divided by the boxes of the whole batch."""

    headline = "iou"
    larger_is_better = True

    def __init__(self, settings: BoxSettings, splits: Splits):
        self.settings, self.train, self.val = settings, splits.train, splits.val

    def build(self) -> nn.Module:
        return create_model(self.settings.model.name, **self.settings.model.arguments())

    model = build

    def batches(self, rank: int, of: int) -> Loader[Pictures]:
        training = self.settings.training
        return Loader(self.train, CollateSquares(), batch=training.batch, seed=training.seed, shuffle=True, rank=rank,
                      of=of, drop_last=True, workers=training.workers)

    def loss(self, model: nn.Module, batch: Pictures, step: int) -> dict[str, Tensor]:
        found = model(batch.images, batch.sizes)
        centres, distance = torch.zeros_like(found.centres), found.boxes.new_zeros(())
        columns = -(-batch.images.shape[3] // STRIDE)
        for row, boxes in enumerate(batch.boxes):
            for box in boxes.to(found.boxes.device):
                x, y = ((box[:2] + box[2:]) / 2 // STRIDE).long().tolist()
                centres[row, y * columns + x] = 1.0
                distance = distance + (found.boxes[row, y * columns + x] - box).abs().mean() / STRIDE
        wrong = F.binary_cross_entropy_with_logits(found.centres, centres, reduction="sum")
        share = batch.all_samples / len(batch) / batch.all_boxes      # the mean over micro-batches is the whole's
        return {"loss": (wrong + distance) * share, "distance": distance.detach() * share}

    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        values = overlaps(model, self.val, Options(device=device))
        return {"iou": sum(values) / len(values), "samples": float(len(values))}

    def describe(self) -> dict[str, Any]:
        data = {name: {"name": d.name, "samples": len(d), "fingerprint": d.fingerprint(), "skipped": []}
                for name, d in (("train", self.train), ("val", self.val))}
        return {"task": "toy_boxes", "data": data, "fingerprint": "/".join(d["fingerprint"] for d in data.values())}

    def names(self, batch: Pictures) -> list[str]:
        return [self.train.key(i) for i in batch.indices.tolist()]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(model, folder, overwrite=True)


# judging and answering
def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) one by one: (...)."""
    inside = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    area = inside.prod(-1)
    sides = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    return area / (sides[0] + sides[1] - area).clamp(min=1e-9)


def overlaps(model: nn.Module, dataset: Any, options: Options) -> list[float]:
    """For each image the overlap of its first square with the likeliest one found."""
    values = []
    for batch in Loader(dataset, CollateSquares(), batch=min(options.batch, len(dataset))).epoch(0):
        with torch.no_grad():
            found = model(batch.images.to(options.device), batch.sizes.to(options.device))
        best = found.boxes[torch.arange(len(batch)), found.centres.argmax(1)].cpu()
        values += [float(iou(box, squares).max()) for box, squares in zip(best, batch.boxes, strict=True)]
    return values


@dataclass(frozen=True, kw_only=True)
class BoxEvaluation:
    """How well the squares of a data set are found."""

    about: str
    scores: Mapping[str, Score]
    samples: int
    predictions: tuple[float, ...]
    excluded: tuple[Excluded, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"samples": self.samples, "scores": {name: score.to_json() for name, score in self.scores.items()},
                "predictions": list(self.predictions)}

    def tiles(self) -> Iterator[Tile]:
        yield Tile(name="worst overlap", value=f"{min(self.predictions):.2f}")

    def sections(self, model: Any, dataset: Any) -> Iterator[Section]:
        image = dataset.image(0)
        picture = next(predict(model, [image])).draw(Image.fromarray(image.movedim(0, -1).numpy()))
        yield Section(title="The first image", parts=(Figure(png=png_of(picture), about="squares found"),))


def evaluate(model: nn.Module, dataset: Any, options: Options) -> BoxEvaluation:
    values = overlaps(model.eval().to(options.device), dataset, options)
    return BoxEvaluation(about=f"{model.config.model} on {dataset.name}: {len(values)} images", samples=len(values),
                         scores={"iou": student_t(values)}, predictions=tuple(values))


@dataclass(frozen=True, kw_only=True)
class Found:
    """The squares of one image, each (left, top, right, bottom), and how sure the model is of it."""

    key: str
    boxes: tuple[tuple[float, ...], ...] = ()
    sure: tuple[float, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"file": self.key, "boxes": self.boxes, "sure": self.sure, "error": self.error}

    def rows(self) -> list[dict[str, str]]:
        return [{"file": self.key, **{name: f"{x:.1f}" for name, x in zip(("left", "top", "right", "bottom"), box,
                                                                           strict=True)}} for box in self.boxes]

    def draw(self, image: Image.Image) -> Image.Image:
        page = image.copy()
        for box in self.boxes:
            ImageDraw.Draw(page).rectangle(box, outline="red")
        return page


def predict(model: nn.Module, inputs: Any, options: Options | None = None) -> Iterator[Found]:
    options = options or Options()
    for key, image in read_images(inputs):
        if isinstance(image, DataError):
            if options.on_error == "stop":
                raise image
            yield Found(key=key, error=str(image))
            continue
        images, sizes = pad_images([_prepared(image)], multiple=STRIDE)
        with torch.no_grad():
            found = model.eval()(images.to(options.device), sizes.to(options.device))
        order = found.centres[0].argsort(descending=True)[:options.top].tolist()
        sure = [float(found.centres[0, i].sigmoid()) for i in order]
        yield Found(key=key, boxes=tuple(tuple(found.boxes[0, i].tolist()) for i in order), sure=tuple(sure))


def example_inputs(config: ModelConfig, batch: int = 1, size: tuple[int, int] | None = None) -> Inputs:
    height, width = size or config.spec.preprocessing.size
    return Inputs(torch.zeros(batch, 3, height, width), torch.tensor([[height, width]]).expand(batch, -1).contiguous())


def read_inputs(config: ModelConfig, data: Any, *, most: int = 32, size: tuple[int, int] | None = None
                ) -> Iterator[Inputs]:
    height, width = size or config.spec.preprocessing.size
    for number, (_, image) in enumerate(read_images(data)):
        if isinstance(image, DataError):
            raise image
        if number < most:
            resized = F.interpolate(_prepared(image)[None], (height, width))[0]
            yield Inputs(resized, torch.tensor([height, width]))


def score(output: Detections, target: int | Tensor) -> Tensor:
    places = torch.as_tensor(target, device=output.centres.device).expand(len(output.centres))
    return output.centres.gather(1, places[:, None])[:, 0]


def targets(model: nn.Module, output: Detections, wanted: Any) -> tuple[Tensor, tuple[str, ...], Tensor]:
    places = output.centres.argmax(1) if wanted is None else torch.full_like(output.centres[:, 0], int(wanted)).long()
    return places, tuple(f"place {place}" for place in places.tolist()), score(output, places).sigmoid()


def agreement(one: Detections, other: Detections) -> float:
    return float((one.centres.argmax(1) == other.centres.argmax(1)).float().mean())


TASK = register_task(Task(
    name="toy_boxes", about="finds squares", metrics={"iou": Metric(label="overlap", digits=3)}, headline="iou",
    settings=BoxSettings, spec=BoxSpec, make_spec=lambda name, variant, arguments, release: BoxSpec(),
    build=lambda config, network: Detector(network, config), splits=open_splits, open=open_squares,
    objective=BoxObjective, evaluate=evaluate, predict=predict, explain=explain_image, score=score, targets=targets,
    agreement=agreement, example_inputs=example_inputs, read_inputs=read_inputs))
register_model("toy_detector", variant(Grid, Figures(params=18_469, gflops=0.0, image=48)), tasks=("toy_boxes",))
