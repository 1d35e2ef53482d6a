"""The picture of the genealogy: its lines are those that are declared, and its boxes keep apart."""
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tests.cli.conftest import Ask, ask       # noqa: F401
from vitrail.core.catalogue import entries
from vitrail.report import genealogy
from vitrail.report.genealogy import Node
from vitrail.figures.style import png

DECLARED = {(old, e.module) for e in entries().values() for old in e.builds_on}


def drawn(figure: Any) -> set[tuple[str, str]]:
    return {tuple(p.get_gid().split(" > ")) for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)}


def test_the_lines_are_those_that_the_papers_declare() -> None:
    nodes = genealogy.papers()
    assert set(nodes) >= {e.module for e in entries().values()} and len(DECLARED) > 10
    figure = genealogy.picture(nodes, "all")
    lines = drawn(figure)
    known = {e.module for e in entries().values()}
    assert DECLARED <= lines and {(old, new) for old, new in lines if new in known} == DECLARED
    boxes = [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    assert len(boxes) == len(nodes)
    assert png(figure)[1:4] == b"PNG"


def test_boxes_keep_apart_and_years_go_to_the_right() -> None:
    nodes = genealogy.papers()
    found = genealogy.arrange(nodes)
    for one, other in combinations(nodes, 2):
        (x, y), (a, b) = found.places[one], found.places[other]
        assert x != a or abs(y - b) >= 1 - 1e-9, (one, other)
    for (_, column), row in found.lanes.items():
        near = [abs(row - y) for x, y in found.places.values() if x == column]
        assert min(near, default=1) >= (1 + genealogy.LANE) / 2 - 1e-9, "no line passes behind a box"
    for module, node in nodes.items():
        first, last = found.years[node.year]
        assert first <= found.places[module][0] <= last
    spans = list(found.years.values())
    assert all(a[1] + 1 == b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert list(found.years) == sorted(found.years)


def test_within_a_year_a_descendant_stands_right_and_a_late_ancestor_is_reached_from_behind() -> None:
    nodes = {n.module: n for n in (Node("backbones.a", 2020, ()), Node("backbones.b", 2020, ("backbones.a",)),
                                   Node("backbones.c", 2020, ("backbones.b", "positions.late")),
                                   Node("backbones.d", 2022, ("backbones.a",)), Node("positions.late", 2023, ()))}
    places = genealogy.arrange(nodes).places
    assert [places[f"backbones.{n}"][0] for n in "abcd"] == [0, 1, 2, 3] and places["positions.late"][0] == 4
    lines = drawn(genealogy.picture(nodes))
    assert lines == {("backbones.a", "backbones.b"), ("backbones.b", "backbones.c"), ("positions.late", "backbones.c"),
                     ("backbones.a", "backbones.d")}


def test_relatives_are_ancestors_and_descendants_alone() -> None:
    found = set(genealogy.relatives(genealogy.papers(), "backbones.vit"))
    assert {"backbones.vit", "backbones.deit", "backbones.convit"} <= found
    assert "positions.gated" not in found, "an ancestor of a descendant only"
    assert set(genealogy.relatives(genealogy.papers(), "backbones.convit")) >= {"backbones.vit", "positions.gated"}


@pytest.mark.parametrize(("wanted", "room", "expected"), [
    ([0.0, 5.0], [1, 1], [0.0, 5.0]), ([2.0, 2.0], [1, 1], [1.5, 2.5]),
    ([2.0, 2.0, 2.0], [1, 0.5, 1], [1.25, 2.0, 2.75]), ([0.0, 0.1, 9.0], [1, 1, 1], [-0.45, 0.55, 9.0]), ([], [], [])])
def test_rows_are_moved_as_little_as_gives_room(wanted: list[float], room: list[float], expected: list[float]) -> None:
    assert genealogy.apart(wanted, room) == pytest.approx(expected)


def test_tree_draws_and_goes_down(ask: Ask, tmp_path: Path) -> None:       # noqa: F811
    told = ask("tree", "--picture", tmp_path / "all.png", "--json").json
    assert {tuple(line) for line in told["edges"]} >= DECLARED and (tmp_path / "all.png").read_bytes()[1:4] == b"PNG"
    assert ask("tree", "vit_s16", "--picture", tmp_path / "all.png").code == 1, "nothing is overwritten unasked"
    assert "lines of descent" in ask("tree", "vit_s16", "--picture", tmp_path / "all.png", "--overwrite").out
    said = ask("tree", "sinusoidal", "--down").out
    assert "├── foundations.transformer" in said and "│   └── foundations.pre_norm" in said
    below = ask("tree", "sinusoidal", "--down", "--json").json
    assert {t["module"] for t in below["descendants"]} == set(below["built_on_by"])
    assert "--picture" in ask("tree").err and ask("tree").code == 2
