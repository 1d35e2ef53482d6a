"""What papers build on: every idea points to a paper that exists, can be looked up, and fits the years."""
import json
import re

import pytest

from tests.contracts.test_house import PAPERS, PAPERS_OF
from tools.catalogue import recompute_lineage
from vitrail.core import catalogue, lineage
from vitrail.core.ancestors import ANCESTORS
from vitrail.core.card import Paper

PLACE = re.compile(r"abstract|introduction|related work|method|experiments|appendix( [A-Z](\.\d+)*)?"
                   r"|(section|figure|table) [A-Z]?\d+(\.\d+)*|equations? \d+")
OURS = {key: paper for key, paper in lineage.papers().items() if "." in key}
# papers that take no idea from another, and why
ROOTS = {"positions.predecessors": "codes that no paper proposes: they come to mind before sines and cosines do"}
# imports that no idea explains: code that two papers happen to share
SHARED_CODE = {("backbones.lambda_resnet", "backbones.resnet_rs"): "the stem of timm's own networks; it appeared later"}


def test_the_table_is_what_the_papers_declare() -> None:
    assert recompute_lineage() == json.loads(lineage.FILE.read_text("utf-8"))
    assert set(OURS) == {f"{path.parts[-2]}.{path.stem}" for path in PAPERS}
    assert {key.partition(".")[0] for key in OURS} == set(PAPERS_OF)


@pytest.mark.parametrize("key", OURS)
def test_every_paper_builds_on_papers_that_exist_and_says_where(key: str) -> None:
    ideas = OURS[key].ideas
    assert bool(ideas) != (key in ROOTS), "a paper takes an idea, or is listed as a root with the reason"
    assert len({(idea.of, idea.source) for idea in ideas}) == len(ideas)
    for idea in ideas:
        assert idea.of in lineage.papers(), idea
        assert all(PLACE.fullmatch(place) for place in idea.source.split(", ")), idea
        assert 5 <= len(idea.what) <= 60, "a few words"
        assert not idea.what.endswith("."), "words, not a sentence"


@pytest.mark.parametrize("key", OURS)
def test_no_idea_is_newer_than_the_paper_that_takes_it(key: str) -> None:
    paper = OURS[key]
    for idea in paper.ideas:
        older = lineage.papers()[idea.of]
        months = 2 if older.appeared[1] and paper.appeared[1] else 1        # of preprints the month is known, too
        assert older.appeared[:months] <= paper.appeared[:months], idea


def test_nothing_builds_on_itself_at_any_remove() -> None:
    assert [key for key in OURS if key in lineage.ancestry(key)] == []


def test_imports_are_explained_by_ideas() -> None:
    unexplained = {(key, module) for key, paper in OURS.items() for module in paper.builds_on
                   if module not in lineage.ancestry(key)}
    assert unexplained == set(SHARED_CODE)


def test_ancestors_are_needed_and_have_no_file_here() -> None:
    titles = {paper.title for paper in OURS.values()}
    assert {key for key, paper in ANCESTORS.items() if paper.title in titles} == {"detr"}, (
        "a paper with a file is named by its module; of DETR only the position code is here")
    for key, paper in ANCESTORS.items():
        assert lineage.followers()[key], f"nobody builds on {key}"
        assert re.fullmatch(r"[a-z0-9_]+", key) and key not in catalogue.entries(), key
        assert (paper.venue or paper.arxiv) and paper.title and paper.authors and not paper.ideas
        if paper.arxiv:
            assert 0 <= paper.year - paper.appeared[0] <= 2 and 1 <= paper.appeared[1] <= 12, key
    assert len({paper.title for paper in ANCESTORS.values()}) == len(ANCESTORS)


@pytest.mark.parametrize(("paper", "idea"), [
    ("backbones.swin", "backbones.vit"), ("backbones.swin", "attention.local_relation"),
    ("backbones.vit", "foundations.transformer"), ("backbones.vit", "foundations.bert"),
    ("foundations.bert", "foundations.transformer"), ("foundations.gpt", "foundations.transformer"),
    ("foundations.transformer", "foundations.seq2seq"), ("attention.self_attention", "foundations.seq2seq"),
    ("foundations.transformer", "backbones.resnet"), ("backbones.deit", "backbones.vit"),
    ("backbones.deit", "distillation"), ("attention.non_local", "non_local_means"),
    ("attention.sagan", "attention.non_local"), ("backbones.swin_unet", "unet"), ("backbones.uformer", "unet"),
    ("attention.deformable", "detr"), ("backbones.pvt", "backbones.vit"), ("backbones.beit", "foundations.bert"),
    ("positions.rotary_2d", "rope"), ("backbones.cait", "backbones.deit"), ("backbones.xcit", "backbones.cait"),
    ("backbones.mobilevit", "backbones.mobilenet_v2"), ("attention.performer", "attention.linear")])
def test_what_every_reader_knows_is_there(paper: str, idea: str) -> None:
    assert idea in {taken.of for taken in OURS[paper].ideas}
    assert paper in lineage.followers()[idea]
    assert paper in lineage.posterity(idea)


def test_followers_and_importers_are_the_inverse_of_what_is_declared() -> None:
    ideas = {(idea.of, key) for key, paper in OURS.items() for idea in paper.ideas}
    assert {(old, new) for old, users in lineage.followers().items() for new in users} == ideas
    imports = {(module, key) for key, paper in OURS.items() for module in paper.builds_on}
    assert {(old, new) for old, users in lineage.importers().items() for new in users} == imports
    assert "foundations.seq2seq" in lineage.ancestry("backbones.swin_v2")
    assert "backbones.swin_v2" not in lineage.ancestry("backbones.swin")


@pytest.mark.parametrize(("arxiv", "year", "appeared"), [
    ("2010.11929", 2021, (2020, 10)), ("1409.0473", 2015, (2014, 9)), ("", 2019, (2019, 0))])
def test_a_paper_appeared_with_its_preprint(arxiv: str, year: int, appeared: tuple[int, int]) -> None:
    assert Paper(title="t", arxiv=arxiv, authors="a", year=year).appeared == appeared
    assert Paper(title="t", arxiv=arxiv, authors="a", year=year).ideas == ()
