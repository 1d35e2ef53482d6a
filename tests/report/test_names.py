"""Names beside points: apart from one another, from the points, and within the plot."""
import random

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation

from vitrail.figures.names import Name, place
from vitrail.figures.style import make_axes


def test_no_name_touches_another_or_a_point_or_the_edge() -> None:
    draw = random.Random(0)
    points = [(draw.random() ** 2, draw.random()) for _ in range(60)]
    figure, (axes,) = make_axes(8, 6)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = [Name(f"model_{i}_384", x, y, "#22303c", bold=i < 5) for i, (x, y) in enumerate(points)]
    missing = place(axes, labels, points)
    written = {t.get_text(): t for t in axes.texts}
    assert len(written) > 40 and len(written) + len(missing) == 60
    assert not {label.text for label in missing} & {f"model_{i}_384" for i in range(5)}, "the first choose first"
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    room = axes.get_window_extent(renderer)
    boxes = [Annotation.get_window_extent(t, renderer) if t.arrow_patch is None else super(Annotation, t)
             .get_window_extent(renderer) for t in written.values() if isinstance(t, Annotation)]
    assert len(boxes) == len(written)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
        for x, y in map(axes.transData.transform, points):
            assert not box.contains(x, y)


def test_nothing_to_name_is_no_failure() -> None:
    _, (axes,) = make_axes(3, 3)
    assert place(axes, [], []) == [] and not axes.texts
