"""A comparison for people: the table, a page of Markdown, and a plot."""
from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from vitrail.core.score import Metric, Score
from vitrail.figures.style import EMBER, GLASS, INK, LEAF, make_axes
from vitrail.recipes.compare import BATCH, Compared
from vitrail.recipes.compare_settings import CompareSettings

NUMBERS = ("params", "GFLOPs", "ms", "time ratio", "step MiB")


def head(settings: CompareSettings) -> tuple[str, ...]:
    """The columns of the table; the second is the task's headline score."""
    return ("mixer", _title(_metric(settings)), "95 %", "to the first", "params", "GFLOPs", "ms", "time ratio",
            "quartiles", "step MiB")


def cells(compared: Sequence[Compared], settings: CompareSettings) -> list[tuple[str, ...]]:
    """A line a mechanism, the best score first."""
    metric = _metric(settings)

    def line(c: Compared) -> tuple[str, ...]:
        against = "-" if c.against is None else (f"{_signed(metric, c.against.value)} "
                                                 f"({_signed(metric, c.against.low)} "
                                                 f"to {_signed(metric, c.against.high)})")
        return (c.mixer, metric.number(c.score.value), metric.interval(_bounded(metric, c.score)), against,
                f"{c.params:,}", f"{c.multiply_adds / 1e9:.4f}", f"{c.ms:.1f}", f"{c.ratio[0]:.2f}",
                f"{c.ratio[1]:.2f} to {c.ratio[2]:.2f}", f"{c.step_bytes / 2**20:.0f}")
    return [line(c) for c in reversed(_ranked(compared, metric))]


def _metric(settings: CompareSettings) -> Metric:
    task = settings.chosen_task
    return task.metric(task.headline)


def _title(metric: Metric) -> str:
    return f"{metric.label}, %" if metric.share else metric.label


def _signed(metric: Metric, value: float) -> str:
    """A difference with its sign."""
    return f"{'+' if value >= 0 else '-'}{metric.number(abs(value))}"


def _bounded(metric: Metric, score: Score) -> Score:
    """Student's interval of a share may reach beyond 1, which no share does."""
    return replace(score, high=min(score.high, 1.0)) if metric.share else score


def _ranked(compared: Sequence[Compared], metric: Metric) -> list[Compared]:
    """The best last."""
    return sorted(compared, key=lambda c: c.score.value, reverse=not metric.larger_is_better)


def note(settings: CompareSettings) -> str:
    """How to read the table."""
    interval = (f"the mean of {settings.seeds} seeds with Student's interval, and the difference to "
                f"{settings.mixers[0]} seed by seed" if settings.seeds > 1 else "one seed, with its interval over the "
                "held-out samples")
    model, data, training = settings.model, settings.data, settings.training
    return (f"{model.name} with {' '.join(model.set) or 'its own arguments'}, on {data.source}: {training.epochs} "
            f"epochs of batches of {training.batch} at a rate of "
            f"{training.lr:g}, the same for all. {_metric(settings).label}: {interval}. ms: a forward pass of {BATCH} "
            "samples in turns in "
            f"one process, beside {settings.mixers[0]}'s. step: the peak of a training step of {BATCH}. "
            "GFLOPs: 1e9 multiply-adds of one sample in products, convolutions and attention.")


def page(compared: Sequence[Compared], settings: CompareSettings) -> str:
    """The comparison as Markdown."""
    columns = head(settings)
    return "\n".join([
        f"# {len(compared)} mixers in one backbone", "", f"`vitrail compare --mixers {' '.join(settings.mixers)}`", "",
        note(settings), "", "![the comparison](compare.png)", "", f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}", *(f"| {' | '.join(c)} |" for c in cells(compared, settings))]) + "\n"


def plot(compared: Sequence[Compared], settings: CompareSettings) -> Figure:
    """Score with its interval, time, and memory of each mechanism, the best score on top."""
    metric = _metric(settings)
    ranked = _ranked(compared, metric)
    scale = 100 if metric.share else 1
    figure, (score, time, memory) = make_axes(11, 1.2 + 0.32 * len(ranked), 3)
    places = list(range(len(ranked)))
    bounded = [_bounded(metric, c.score) for c in ranked]
    low = [scale * (s.value - s.low) for s in bounded]
    high = [scale * (s.high - s.value) for s in bounded]
    score.errorbar([scale * s.value for s in bounded], places, xerr=[low, high], fmt="o", color=GLASS, capsize=3, lw=1)
    for at, c in enumerate(ranked):
        score.plot([scale * r for r in c.runs], [at] * len(c.runs), "|", color=INK, ms=7)
    score.set(title=f"held out: {_title(metric)}")
    score.set_yticks(places, [c.mixer for c in ranked])
    time.barh(places, [c.ms for c in ranked], color=LEAF, height=0.6)
    time.set(title=f"ms, forward pass of {BATCH}")
    memory.barh(places, [c.step_bytes / 2**20 for c in ranked], color=EMBER, height=0.6)
    memory.set(title=f"MiB, training step of {BATCH}")
    for axes in (score, time, memory):
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.set_axisbelow(True)
    for axes in (time, memory):
        axes.set_yticks(places, [])
    return figure
