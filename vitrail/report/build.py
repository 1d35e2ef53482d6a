"""One self-contained page about a run: how it went, what it scores, where it errs and why, what it costs."""
import base64
import io
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import torch
from markupsafe import Markup
from PIL import Image

from vitrail.core.catalogue import paper_of
from vitrail.core.errors import ExplainError
from vitrail.core.files import write_file
from vitrail.data.source import Source, printable
from vitrail.explanation.api import attention_grid, explain
from vitrail.report import facts, plots
from vitrail.report.exports import exports
from vitrail.tasks.classification.evaluate import Evaluation, Judged
from vitrail.tasks.classification.intervals import Score
from vitrail.tasks.classification.model import Classifier

NAMES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "balanced": "balanced accuracy",
         "f1": "F1, mean over classes", "ece": "expected calibration error", "brier": "Brier score",
         "nll": "negative log-likelihood"}
SHARES = ("top1", "top5", "balanced", "f1", "ece")
METHODS = {"relevance": "gradient-weighted relevance, arXiv:2103.15679", "gradcam": "Grad-CAM, arXiv:1610.02391"}
MISTAKES = 12


def write_report(run: Path, model: Classifier, evaluation: Evaluation, source: Source, *,
                 path: Path | None = None) -> Path:
    """Writes the page about a run and an evaluation of its model on `source`: RUN/report.html, or `path`.

    run: the run's folder, for its log and its papers; what is not there is left out of the page. Everything is inside
    the page: figures as SVG, pictures as data. Text of the user's (class names, paths) is escaped.
    Raises VitrailError where the page cannot be written.
    """
    records, papers = list(facts.log(run / "metrics.jsonl")), facts.papers(run)
    train = [r for r in records if r["kind"] == "train" and "loss" in r]
    held = [r for r in records if r["kind"] == "eval" and "top1" in r]
    settings, unseen = facts.settings(papers), facts.is_held_out(papers, source)
    paper = paper_of(model.config.model)
    method, mistakes = _mistakes(model, evaluation, source)
    top1 = evaluation.scores["top1"]
    cost, params = _cost(model), sum(p.numel() for p in model.parameters())
    page = _template().render(
        title=f"{model.config.model} on {printable(evaluation.source)}", subtitle=paper.cite(), run=str(run),
        held="Held-out scores" if unseen else f"Scores on {printable(evaluation.source)}",
        tiles=[{"name": "held-out top-1" if unseen else "top-1", "value": _percent(top1.value),
                "note": f"{_interval('top1', top1)}, 95 %"},
               {"name": "images held out" if unseen else "images", "value": f"{evaluation.samples:,}",
                "note": f"{len(evaluation.labels)} classes"},
               {"name": "parameters", "value": f"{params:,}", "note": f"{cost[1]['value']} multiply-adds"},
               {"name": "one image", "value": cost[2]["value"], "note": "batch 1, this machine"}],
        curves=Markup(plots.curves(train, held, "top1")) if train and held else Markup("<p>No log was kept.</p>"),
        scores=[{"name": NAMES.get(k, k), "value": _value(k, s), "interval": _interval(k, s)}
                for k, s in evaluation.scores.items()],
        scores_note="Intervals: Wilson for shares of images, 1,000 bootstrap samples for the rest."
                    + (_flattered(settings) if unseen else ""),
        calibration=Markup(plots.calibration(evaluation.reliability)),
        confusion=Markup(plots.confusion(evaluation.confusion, evaluation.labels)),
        per_class=[{"label": c.name, "precision": _percent_of(c.precision), "recall": _percent_of(c.recall),
                    "f1": "–" if c.f1 is None else f"{100 * c.f1:.1f}", "images": c.support}
                   for c in evaluation.per_class],
        mistakes=mistakes, method=method, **_attention(model, evaluation, source), cost=cost,
        exports=[_exported(e) for e in exports(run)], settings=sorted(settings.items()),
        facts=list(facts.lines(papers)), excluded=evaluation.excluded)
    path = run / "report.html" if path is None else path
    write_file(path, page.encode("utf-8", "backslashreplace"), overwrite=True)
    return path


def _flattered(settings: Mapping[str, Any]) -> str:
    if settings.get("finish") == "best":
        return " The weights are those of the epoch that scored best on these images, which flatters them."
    return " The weights are those of the end of the run." if settings else ""


def _template() -> jinja2.Template:
    pages = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=pages, autoescape=True, undefined=jinja2.StrictUndefined).get_template("page.html")


def data_url(image: Image.Image) -> str:
    """A picture as text that a page can hold."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def picture(pixels: torch.Tensor, side: int = 240) -> Image.Image:
    """uint8 (3, H, W) as a picture whose longer side is `side`; small ones keep their square pixels."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def _mistakes(model: Classifier, evaluation: Evaluation, source: Source) -> tuple[str, list[dict[str, str]]]:
    """The worst mistakes with what spoke for the answer that was given, and the name of the method."""
    cards, found = [], ""
    for wrong in evaluation.worst(MISTAKES):
        pixels = source.read(wrong.index)
        method, drawn = _explained(model, pixels, evaluation.labels.index(wrong.predicted))
        found = found or method
        cards.append({"image": data_url(picture(pixels)), "map": data_url(_fit(drawn)) if drawn else "",
                      "label": wrong.label, "predicted": wrong.predicted, "key": wrong.key,
                      "probability": _percent(wrong.probability)})
    return METHODS.get(found, ""), cards


def _explained(model: Classifier, pixels: torch.Tensor, target: int) -> tuple[str, Image.Image | None]:
    """The first method that applies, and its overlay; neither for a model that answers alike whatever it sees."""
    for method in METHODS:                      # Grad-CAM for a network without attention over tokens
        try:
            return method, explain(model, pixels, method=method, target=target).overlay()
        except ExplainError:
            continue
    return "", None


def _fit(image: Image.Image, side: int = 240) -> Image.Image:
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _attention(model: Classifier, evaluation: Evaluation, source: Source) -> dict[str, str]:
    """The first image that was answered right, as every head of every layer looks at it."""
    shown: Judged = next((p for p in evaluation.predictions if p.right), evaluation.predictions[0])
    try:
        grid = attention_grid(model, source.read(shown.index))
    except ExplainError:
        return {"attention": "", "attention_of": "", "attention_note": ""}
    return {"attention": data_url(grid), "attention_of": data_url(picture(source.read(shown.index))),
            "attention_note": f"{shown.key}: {shown.label}, taken for {shown.predicted}."}


def _cost(model: Classifier) -> list[dict[str, str]]:
    """Parameters, operations and the time of a forward pass, measured on this machine now."""
    from torch.utils.flop_counter import FlopCounterMode
    height, width = model.config.spec.preprocessing.size
    image = torch.zeros(1, 3, height, width)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    rows = [{"name": "parameters", "value": f"{sum(p.numel() for p in model.parameters()):,}", "note": ""},
            {"name": "multiply-adds", "value": f"{counter.get_total_flops() / 2e9:.3f} G",
             "note": f"an image of {height} x {width}: convolutions, products and attention"}]
    for batch in (1, 8):
        images, times = image.expand(batch, -1, -1, -1).contiguous(), []
        with torch.inference_mode():
            for _ in range(9):
                start = time.perf_counter()
                model(images)
                times.append(time.perf_counter() - start)
        each = 1e3 * statistics.median(times[2:]) / batch
        rows.append({"name": f"forward pass, batch {batch}", "value": f"{each:.2f} ms",
                     "note": f"an image; median of 7 on the processor, threads: {torch.get_num_threads()}"})
    return rows


def _exported(e: Mapping[str, Any]) -> dict[str, Any]:
    return {"file": Path(str(e.get("path", ""))).name, "format": e.get("format", ""), "images": e.get("images", ""),
            "difference": f"{float(e.get('difference', 0)):.1e}", "ok": True, "verdict": "same answers as the model"}


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _percent_of(score: Score | None) -> str:
    return "–" if score is None else f"{100 * score.value:.1f}"


def _value(name: str, score: Score) -> str:
    return _percent(score.value) if name in SHARES else f"{score.value:.4f}"


def _interval(name: str, score: Score) -> str:
    low, high = (100 * score.low, 100 * score.high) if name in SHARES else (score.low, score.high)
    return f"{low:.2f} to {high:.2f} %" if name in SHARES else f"{low:.4f} to {high:.4f}"

