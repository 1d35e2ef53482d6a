"""Answers for images nobody labelled: files, folders, PIL images, arrays and tensors."""
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vitrail.core.task import Options
from vitrail.data.fonts import write
from vitrail.data.inputs import read_images
from vitrail.data.settings import ON_ERROR, Decoding, check_choice, check_number
from vitrail.data.transforms import evaluation_transform
from vitrail.tasks.classification.evaluate import answering
from vitrail.tasks.classification.metrics import ranked


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's answer. Where the image could not be read, ``error`` says why and there is no answer.

    key: the file, or "#n" for the n-th input where it is in memory, "#n.m" within a batch. score: the probability of
    the label. top: the best classes and their probabilities, best first.
    """

    key: str
    label: str | None = None
    score: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"file": self.key, "label": self.label, "probability": self.score, "error": self.error,
                "top": [{"label": label, "probability": probability} for label, probability in self.top]}

    def rows(self) -> list[dict[str, str]]:
        """One line: file, label, probability, and label_2, probability_2, ... of the other answers."""
        cells = {"file": self.key, "label": "", "probability": ""}
        for place, (label, probability) in enumerate(self.top, 1):
            ending = "" if place == 1 else f"_{place}"
            cells |= {f"label{ending}": label, f"probability{ending}": f"{probability:.6f}"}
        return [cells]

    def draw(self, image: Image.Image) -> Image.Image:
        """The picture with its answer written below it."""
        size = max(12, image.height // 20)
        page = Image.new("RGB", (image.width, image.height + 2 * size), "white")
        page.paste(image, (0, 0))
        text = f"{self.label} {100 * (self.score or 0):.1f} %" if self.label is not None else str(self.error)
        write(page, (size // 2, image.height + size // 3), text, size, (30, 30, 30))
        return page


def predict(model: Any, inputs: Any, options: Options | None = None, *,
            decoding: Decoding | None = None) -> Iterator[Prediction]:
    """A prediction for each image, in the order given; a folder stands for the images in it, to any depth.

    inputs: as `data.inputs.read_images` takes them. decoding: the rules by which all of them are read, those in memory
    like files. options.on_error: "stop" raises the first DataError; "skip" puts it into that image's prediction.

    Raises DataError for what is not an image, ModelError for answers that are not finite, SettingsError for settings.
    """
    options = options or Options()
    check_choice("on_error", options.on_error, ON_ERROR)
    check_number("batch", options.batch, 1, 2**24, whole=True)
    check_number("top", options.top, 1, 2**24, whole=True)
    return _predictions(model.to(options.device), inputs, options, decoding)


def _predictions(model: Any, inputs: Any, options: Options, decoding: Decoding | None) -> Iterator[Prediction]:
    spec = model.config.spec
    transform = evaluation_transform(spec.preprocessing)
    images = read_images(inputs, decoding)
    while chunk := list(islice(images, options.batch)):
        for _, image in chunk:
            if not isinstance(image, Tensor) and options.on_error == "stop":
                raise image
        sound = [transform(image) for _, image in chunk if isinstance(image, Tensor)]
        answers: Iterator[tuple[tuple[str, float], ...]] = iter(())
        if sound:
            with answering(model):
                answers = iter(_answers(model(torch.stack(sound).to(options.device)), spec.labels, options.top))
        for key, image in chunk:
            if isinstance(image, Tensor):
                best = next(answers)
                yield Prediction(key=key, label=best[0][0], score=best[0][1], top=best)
            else:
                yield Prediction(key=key, error=str(image))


def _answers(logits: Tensor, labels: tuple[str, ...], top: int) -> list[tuple[tuple[str, float], ...]]:
    order, log_p = ranked(logits)
    order = order[:, :top]
    probabilities = log_p.exp().gather(1, order)
    return [tuple((labels[c], p) for c, p in zip(*row, strict=True))
            for row in zip(order.tolist(), probabilities.tolist(), strict=True)]
