"""The picture of the lineage: its lines are those that are declared, and its boxes keep apart."""
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tests.cli.conftest import Ask, ask       # noqa: F401
from vitrail.core.catalogue import entries
from vitrail.report import lineage
from vitrail.report.lineage import Node
from vitrail.report.lineage_layout import LANE, apart, arrange
from vitrail.figures.style import png


def declared(nodes: dict[str, Node], kind: str) -> set[tuple[str, str]]:
    return {(old, new.key) for new in nodes.values() for old in getattr(new, kind) if old in nodes}


def drawn(figure: Any) -> dict[tuple[str, ...], Any]:
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    return {tuple(patch.get_gid().split(" > ")): patch for patch in patches}


def reached(lines: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs that the lines join, at any remove."""
    pairs = set(lines)
    while more := {(a, d) for a, b in pairs for c, d in lines if b == c} - pairs:
        pairs |= more
    return pairs


def test_lines_are_the_declared_ones_without_detours() -> None:
    nodes = lineage.overview()
    assert set(nodes) >= {e.module for e in entries().values()}
    assert "unet" in nodes and "cloze" not in nodes, "of papers without a file, those that two build on"
    lines = lineage.edges(nodes)
    figure = lineage.picture(nodes, "all")
    assert set(drawn(figure)) == set(lines)
    ideas = declared(nodes, "ideas")
    imports = declared(nodes, "imports")
    assert set(lines) <= ideas | imports and imports <= set(lines)
    assert {line for line, kind in lines.items() if kind == "both"} == ideas & imports
    assert {line for line, kind in lines.items() if kind == "import"} == imports - ideas
    shown = {line for line, kind in lines.items() if kind != "import"}
    assert reached(shown) == reached(ideas), "what is left out comes by another way"
    for line in shown - imports:
        assert line not in reached(ideas - {line}), "and what comes by another way is left out"
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(nodes)
    assert png(figure)[1:4] == b"PNG"


def test_ideas_and_imports_look_different() -> None:
    nodes = {node.key: node for node in (
        Node("unet", 2015), Node("backbones.a", 2020, ("unet",)),
        Node("backbones.b", 2021, ("backbones.a", "unet"), ("backbones.a",)),
        Node("backbones.c", 2022, (), ("backbones.a",)))}
    assert lineage.edges(nodes) == {
        ("unet", "backbones.a"): "idea", ("backbones.a", "backbones.b"): "both",
        ("backbones.a", "backbones.c"): "import"}
    assert lineage.edges(nodes, focus="backbones.b")["unet", "backbones.b"] == "idea", "the paper asked for shows all"
    figure = lineage.picture(nodes, focus="backbones.b")
    patches = drawn(figure)
    looks = {(patch.get_linewidth(), str(patch.get_linestyle())) for patch in patches.values()}
    assert len(looks) == 3 and len(patches) == 4
    legend = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert legend == {"backbones", "not here", *lineage.CALLED.values()}


def test_boxes_keep_apart_and_years_go_to_the_right() -> None:
    nodes = lineage.papers()
    arranged = arrange({key: node.year for key, node in nodes.items()}, lineage.edges(nodes))
    for one, other in combinations(nodes, 2):
        (x, y), (a, b) = arranged.places[one], arranged.places[other]
        assert x != a or abs(y - b) >= 1 - 1e-9, (one, other)
    for (_, column), row in arranged.lanes.items():
        near = [abs(row - y) for x, y in arranged.places.values() if x == column]
        assert min(near, default=1) >= (1 + LANE) / 2 - 1e-9, "no line passes behind a box"
    for key, node in nodes.items():
        first, last = arranged.years[node.year]
        assert first <= arranged.places[key][0] <= last
    spans = list(arranged.years.values())
    assert all(a[1] + 1 == b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert list(arranged.years) == sorted(arranged.years)


def test_within_a_year_a_descendant_stands_right_and_a_late_import_is_reached_from_behind() -> None:
    nodes = {node.key: node for node in (
        Node("backbones.a", 2020), Node("backbones.b", 2020, ("backbones.a",)),
        Node("backbones.c", 2020, ("backbones.b",), ("positions.late",)), Node("backbones.d", 2022, ("backbones.a",)),
        Node("positions.late", 2023))}
    lines = lineage.edges(nodes)
    places = arrange({key: node.year for key, node in nodes.items()}, lines).places
    assert [places[f"backbones.{n}"][0] for n in "abcd"] == [0, 1, 2, 3] and places["positions.late"][0] == 4
    assert set(drawn(lineage.picture(nodes))) == {
        ("backbones.a", "backbones.b"), ("backbones.b", "backbones.c"), ("positions.late", "backbones.c"),
        ("backbones.a", "backbones.d")}


def test_relatives_are_ancestors_and_descendants_alone() -> None:
    relatives = set(lineage.relatives(lineage.papers(), "backbones.vit"))
    assert {"backbones.vit", "backbones.deit", "backbones.convit", "foundations.transformer", "elmo"} <= relatives
    assert "positions.gated" not in relatives, "an ancestor of a descendant only"
    assert {"backbones.vit", "positions.gated"} <= set(lineage.relatives(lineage.papers(), "backbones.convit"))


@pytest.mark.parametrize(("wanted", "room", "expected"), [
    ([0.0, 5.0], [1, 1], [0.0, 5.0]), ([2.0, 2.0], [1, 1], [1.5, 2.5]),
    ([2.0, 2.0, 2.0], [1, 0.5, 1], [1.25, 2.0, 2.75]), ([0.0, 0.1, 9.0], [1, 1, 1], [-0.45, 0.55, 9.0]), ([], [], [])])
def test_rows_are_moved_as_little_as_gives_room(wanted: list[float], room: list[float], expected: list[float]) -> None:
    assert apart(wanted, room) == pytest.approx(expected)


def test_tree_draws(ask: Ask, tmp_path: Path) -> None:       # noqa: F811
    answer = ask("tree", "--picture", tmp_path / "all.png", "--json").json
    lines = lineage.edges(lineage.overview())
    assert {(line["of"], line["by"]): line["kind"] for line in answer["edges"]} == lines
    assert (tmp_path / "all.png").read_bytes()[1:4] == b"PNG"
    assert ask("tree", "vit_s16", "--picture", tmp_path / "all.png").code == 1, "nothing is overwritten unasked"
    assert "lines of descent" in ask("tree", "vit_s16", "--picture", tmp_path / "all.png", "--overwrite").out
