"""One self-contained page about a run: how it went, what it scores, where it errs and why, what it costs."""
import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vitrail.core.catalogue import paper_of
from vitrail.core.files import write_file
from vitrail.core.results import Card, Evaluation, Figure, Section, Table, Tile
from vitrail.core.task import Task, task_of
from vitrail.data.dataset import printable
from vitrail.report import plots
from vitrail.report.cost import cost_of
from vitrail.report.exports import exports
from vitrail.training import metadata


def write_report(run: Path, model: Any, evaluation: Evaluation, dataset: Any, *, path: Path | None = None) -> Path:
    """Writes the page about a run and an evaluation of its model on `dataset`: RUN/report.html, or `path`.

    run: the run's folder, for its log and its metadata; what is not there is left out of the page. The task's own
    sections are the evaluation's. Everything is inside the page: figures as SVG, pictures as data. Text of the user's
    (class names, paths) is escaped. Raises VitrailError where the page cannot be written.
    """
    task = task_of(model.config)
    known = metadata.read_metadata(run)
    settings = metadata.settings_of(known)
    unseen = metadata.is_held_out(known, dataset)
    cost = cost_of(model, task)
    page = _template().render(
        title=f"{model.config.model} on {printable(dataset.name)}", subtitle=paper_of(model.config.model).cite(),
        run=str(run), held="Held-out scores" if unseen else f"Scores on {printable(dataset.name)}",
        tiles=list(_tiles(task, evaluation, cost, unseen)), curves=_curves(run, task), scores=_scores(task, evaluation),
        scores_note=_flattered(settings) if unseen else "",
        sections=[_section(section) for section in evaluation.sections(model, dataset)], cost=cost.rows,
        exports=[_exported(entry) for entry in exports(run)], settings=sorted(settings.items()),
        facts=list(metadata.lines(known)), excluded=evaluation.excluded)
    path = run / "report.html" if path is None else path
    write_file(path, page.encode("utf-8", "backslashreplace"), overwrite=True)
    return path


def _tiles(task: Task, evaluation: Evaluation, cost: Any, unseen: bool) -> Iterator[Tile]:
    metric = task.metric(task.headline)
    score = evaluation.scores[task.headline]
    interval = metric.interval(score)
    yield Tile(name=f"held-out {metric.label}" if unseen else metric.label, value=metric.value(score),
               note=f"{interval}{metric.unit}, 95 %" if interval else "")
    yield from evaluation.tiles()
    yield from cost.tiles


def _curves(run: Path, task: Task) -> Markup:
    records = list(metadata.read_log(run / "metrics.jsonl"))
    train = [record for record in records if record["kind"] == "train" and "loss" in record]
    held = [record for record in records if record["kind"] == "eval" and task.headline in record]
    if not train or not held:
        return Markup("<p>No log was kept.</p>")
    return Markup(plots.curves(train, held, task.headline, task.metric(task.headline)))


def _scores(task: Task, evaluation: Evaluation) -> list[dict[str, str]]:
    rows = []
    for name, score in evaluation.scores.items():
        metric = task.metric(name)
        interval = metric.interval(score)
        rows.append({"name": metric.label, "value": metric.value(score),
                     "interval": f"{interval}{metric.unit}" if interval else ""})
    return rows


def _flattered(settings: Mapping[str, Any]) -> str:
    if settings.get("finish") == "best":
        return "The weights are those of the epoch that scored best on these samples, which flatters them."
    return "The weights are those of the end of the run." if settings else ""


def _template() -> jinja2.Template:
    pages = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=pages, autoescape=True, undefined=jinja2.StrictUndefined).get_template("page.html")


def _section(section: Section) -> dict[str, Any]:
    """A section as the template takes it: its cards apart from its tables and figures."""
    others: Sequence[Table | Figure] = [part for part in section.parts if not isinstance(part, Card)]
    return {"title": section.title, "note": section.note,
            "parts": [_figure(part) if isinstance(part, Figure) else {"kind": "table", "table": part}
                      for part in others],
            "cards": [_card(part) for part in section.parts if isinstance(part, Card)]}


def _figure(figure: Figure) -> dict[str, Any]:
    if figure.svg:
        return {"kind": "svg", "svg": Markup(figure.svg), "about": figure.about}
    return {"kind": "picture", "data": data_url(figure.png), "about": figure.about}


def _card(card: Card) -> dict[str, Any]:
    return {"pictures": [_figure(picture) for picture in card.pictures], "words": list(_words(card)),
            "note": card.note}


def _words(card: Card) -> Iterator[tuple[str, bool]]:
    """The card's text in pieces, and whether each is strong; what is strong comes in the order in which it is named."""
    rest = card.text
    for word in card.strong:
        before, _, rest = rest.partition(word)
        yield before, False
        yield word, True
    yield rest, False


def data_url(png: bytes) -> str:
    """A picture as text that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _exported(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"file": Path(str(entry.get("path", ""))).name, "format": entry.get("format", ""),
            "samples": entry.get("samples", entry.get("images", "")),
            "difference": f"{float(entry.get('difference', 0)):.1e}", "verdict": "same answers as the model"}
