"""What the catalogue and the cards say is what the code is."""
import importlib
import inspect
import json
from pathlib import Path

import pytest
import torch

import vitrail
from tests.contracts.small import NAMES
from tools.catalogue import recompute
from tools.figures import measure
from vitrail.core import catalogue
from vitrail.core.errors import ModelError

VOCABULARY = set((Path(__file__).parent / "vocabulary.txt").read_text("utf-8").split())


def test_the_table_is_what_the_modules_hold() -> None:
    assert recompute() == json.loads(catalogue.FILE.read_text("utf-8"))


@pytest.mark.parametrize("name", [*NAMES, *catalogue.names("foundation")])
def test_figures_are_exact(name: str) -> None:
    params, gflops = measure(name)
    figures = catalogue.variant_of(name).figures
    assert params == figures.params
    assert round(gflops, 3) == pytest.approx(figures.gflops, abs=5.1e-4)


@pytest.mark.parametrize("name", [*catalogue.names("attention"), *catalogue.names("position")])
def test_what_a_mechanism_declares_is_whole(name: str) -> None:
    card = vitrail.card(name)
    assert card.paper.title and card.paper.authors and card.paper.arxiv in card.paper.cite()
    assert inspect.getdoc(card.variant.build), "a student reads it with the paper beside it"
    told = [card.variant.enters, card.variant.fits] if card.entry.kind == "position" else [card.variant.shows]
    assert all(told)


@pytest.mark.parametrize("name", [*NAMES, *catalogue.names("foundation")])
def test_card_names_paper_and_licences(name: str) -> None:
    card = vitrail.card(name)
    assert card.paper.title and card.paper.authors and (card.paper.arxiv or card.paper.venue) and card.paper.year > 2013
    assert [p.title for p in card.builds_on] == [importlib.import_module(f"vitrail.{m}").PAPER.title
                                                 for m in card.paper.builds_on]
    keys = getattr(catalogue.module_of(name), "KEYS", {})
    for weights in card.variant.weights:
        assert weights.license and weights.keys in keys
        assert weights.source.startswith(("hf://", "https://"))
    assert len({w.name for w in card.variant.weights}) == len(card.variant.weights)


BUILT = [e for e in catalogue.entries().values() if e.kind in ("backbone", "foundation")]


@pytest.mark.parametrize("module", sorted({e.module for e in BUILT}))
def test_constructors_speak_one_vocabulary(module: str) -> None:
    builds = {catalogue.variant_of(e.name).build for e in BUILT if e.module == module}
    for build in builds:
        for argument in inspect.signature(build).parameters.values():
            assert argument.kind is inspect.Parameter.KEYWORD_ONLY, argument
            assert inspect.Parameter.empty not in (argument.annotation, argument.default)
            assert argument.name in VOCABULARY, f"{build.__name__}: {argument.name!r} is not in the vocabulary"


@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_total_and_reversible(name: str) -> None:
    from vitrail.weights import keys_of
    with torch.device("meta"):
        model = vitrail.create_model(name)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    for layout in catalogue.module_of(name).KEYS:
        table = keys_of(model, layout)
        assert table is not None
        back = table.translate(table.restore(model.state_dict()))
        assert {k: v.shape for k, v in back.items()} == shapes


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="vit_s16"):
        vitrail.create_model("vit_s61")
    with pytest.raises(ModelError, match="drop_path"):
        vitrail.create_model("vit_s16", drop_pth=0.1)
