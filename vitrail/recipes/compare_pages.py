"""A comparison for people: the table, a page of Markdown, and a plot."""
from collections.abc import Sequence

from matplotlib.figure import Figure

from vitrail.recipes.compare import BATCH, Compared
from vitrail.recipes.compare_settings import CompareSettings
from vitrail.figures.style import EMBER, GLASS, INK, LEAF, make_axes

HEAD = ("mixer", "top-1 %", "95 %", "to the first", "params", "GFLOPs", "ms", "time ratio", "quartiles", "step MiB")
NUMBERS = ("top-1 %", "params", "GFLOPs", "ms", "time ratio", "step MiB")


def cells(found: Sequence[Compared]) -> list[tuple[str, ...]]:
    """A line a mechanism, the best score first."""
    def line(c: Compared) -> tuple[str, ...]:
        against = "-" if c.against is None else (f"{100 * c.against.value:+.2f} ({100 * c.against.low:+.2f} to "
                                                 f"{100 * c.against.high:+.2f})")
        return (c.mixer, f"{100 * c.top1.value:.2f}", f"{100 * c.top1.low:.2f} to {min(100 * c.top1.high, 100):.2f}",
                against, f"{c.params:,}", f"{c.multiply_adds / 1e9:.4f}", f"{c.ms:.1f}", f"{c.ratio[0]:.2f}",
                f"{c.ratio[1]:.2f} to {c.ratio[2]:.2f}", f"{c.step_bytes / 2**20:.0f}")
    return [line(c) for c in sorted(found, key=lambda c: -c.top1.value)]


def note(settings: CompareSettings) -> str:
    """How to read the table."""
    interval = (f"the mean of {settings.seeds} seeds with Student's interval, and the difference to "
                f"{settings.mixers[0]} seed by seed" if settings.seeds > 1 else "one seed with Wilson's interval over "
                "the held-out images")
    model, data, training = settings.model, settings.data, settings.training
    return (f"{model.name} with {' '.join(model.set) or 'its own arguments'}, {data.size or 'its own'} "
            f"pixels, on {data.source}: {training.epochs} epochs of batches of {training.batch} at a rate of "
            f"{training.lr:g}, the same for all. top-1: {interval}. ms: a forward pass of {BATCH} images in turns in "
            f"one process, beside {settings.mixers[0]}'s. step: the peak of a training step of {BATCH}. "
            "GFLOPs: 1e9 multiply-adds of one image in products, convolutions and attention.")


def page(found: Sequence[Compared], settings: CompareSettings) -> str:
    """The comparison as Markdown."""
    return "\n".join([
        f"# {len(found)} mixers in one backbone", "", f"`vitrail compare --mixers {' '.join(settings.mixers)}`", "",
        note(settings), "", "![the comparison](compare.png)", "", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}",
        *(f"| {' | '.join(c)} |" for c in cells(found))]) + "\n"


def plot(found: Sequence[Compared]) -> Figure:
    """Score with its interval, time, and memory of each mechanism, the best score on top."""
    ranked = sorted(found, key=lambda c: c.top1.value)
    figure, (score, time, memory) = make_axes(11, 1.2 + 0.32 * len(ranked), 3)
    places = list(range(len(ranked)))
    low = [100 * (c.top1.value - c.top1.low) for c in ranked]
    high = [100 * (min(c.top1.high, 1.0) - c.top1.value) for c in ranked]
    score.errorbar([100 * c.top1.value for c in ranked], places, xerr=[low, high], fmt="o", color=GLASS, capsize=3,
                   lw=1)
    for at, c in enumerate(ranked):
        score.plot([100 * r for r in c.runs], [at] * len(c.runs), "|", color=INK, ms=7)
    score.set(title="held-out top-1, %")
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
