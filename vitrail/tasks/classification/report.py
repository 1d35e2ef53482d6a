"""What the report of a run says of a classifier: where it errs, and why."""
from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from vitrail.core.errors import ExplainError
from vitrail.core.results import Card, Figure, Section, Table
from vitrail.core.score import Score
from vitrail.explanation.api import attention_grid, explain_image
from vitrail.figures.pictures import fit, png_of, thumbnail
from vitrail.tasks.classification import plots

METHODS = {"relevance": "gradient-weighted relevance, arXiv:2103.15679", "gradcam": "Grad-CAM, arXiv:1610.02391"}
MISTAKES = 12


def sections(evaluation: Any, model: Any, dataset: Any) -> Iterator[Section]:
    """Confusion and calibration, the classes one by one, the worst mistakes, and where the model looks."""
    yield Section(title="Calibration", note="Accuracy against confidence; a dot's area is its share of the images.",
                  parts=(Figure(svg=plots.calibration(evaluation.reliability), about="calibration"),))
    yield Section(title="Confusion", note="Rows are the truth, columns the answers.",
                  parts=(Figure(svg=plots.confusion(evaluation.confusion, evaluation.labels), about="confusion"),
                         _classes(evaluation)))
    yield _mistakes(evaluation, model, dataset)
    yield from _attention(evaluation, model, dataset)


def _classes(evaluation: Any) -> Table:
    rows = tuple((c.name, _percent(c.precision), _percent(c.recall), "–" if c.f1 is None else f"{100 * c.f1:.1f}",
                  str(c.support)) for c in evaluation.per_class)
    return Table(columns=("class", "precision", "recall", "F1", "images"), rows=rows,
                 numbers=("precision", "recall", "F1", "images"))


def _percent(score: Score | None) -> str:
    return "–" if score is None else f"{100 * score.value:.1f}"


def _mistakes(evaluation: Any, model: Any, dataset: Any) -> Section:
    """The worst mistakes with what spoke for the answer that was given."""
    cards = []
    used = ""
    for wrong in evaluation.worst(MISTAKES):
        pixels = dataset.image(wrong.index)
        method, overlay = _explained(model, pixels, evaluation.labels.index(wrong.predicted))
        used = used or method
        pictures = [Figure(png=png_of(thumbnail(pixels)), about="the image")]
        if overlay is not None:
            pictures.append(Figure(png=png_of(fit(overlay)), about="what spoke for the answer"))
        cards.append(Card(pictures=tuple(pictures), strong=(wrong.label, wrong.predicted), note=wrong.key,
                          text=f"{wrong.label} taken for {wrong.predicted} ({100 * wrong.probability:.2f} %)"))
    note = "None: every image was answered right."
    if cards and used:
        note = (f"Wrong answers given with the most confidence, beside what spoke for the answer ({METHODS[used]}). "
                "What lies dark about a map, the model did not see.")
    elif cards:
        note = ("Wrong answers given with the most confidence. The model gives them the same scores whatever it sees, "
                "so nothing in them spoke for the answer.")
    return Section(title="The worst mistakes", note=note, parts=tuple(cards))


def _explained(model: Any, pixels: Tensor, target: int) -> tuple[str, Image.Image | None]:
    """The first method that applies, and its overlay; neither for a model that answers alike whatever it sees."""
    for method in METHODS:                      # Grad-CAM for a network without attention over tokens
        try:
            return method, explain_image(model, pixels, method=method, target=target).overlay()
        except ExplainError:
            continue
    return "", None


def _attention(evaluation: Any, model: Any, dataset: Any) -> Iterator[Section]:
    """The first image that was answered right, as every head of every layer looks at it."""
    shown = next((p for p in evaluation.predictions if p.right), evaluation.predictions[0])
    pixels = dataset.image(shown.index)
    try:
        grid = attention_grid(model, pixels)
    except ExplainError:
        return
    yield Section(title="Attention by layer and head", note=f"{shown.key}: {shown.label}, taken for {shown.predicted}.",
                  parts=(Figure(png=png_of(thumbnail(pixels)), about="the image"),
                         Figure(png=png_of(grid), about="attention by layer and head")))
