"""What each paper builds on: its ideas, with where it says so, and what its file imports. No module is imported.

`lineage.json` beside this file is written by `make catalogue` from the papers' PAPER; papers that have no file here
come from `core.ancestors`. A key with a dot is a module ("backbones.vit"), one without an ancestor's ("unet").
"""
import functools
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from vitrail.core.ancestors import ANCESTORS
from vitrail.core.card import Idea, Paper

FILE = Path(__file__).with_name("lineage.json")


@functools.cache
def papers() -> Mapping[str, Paper]:
    """Every paper by its key: `papers()["backbones.swin"].ideas[0].of` is "backbones.vit"."""
    table = json.loads(FILE.read_text(encoding="utf-8"))
    ours = {module: Paper(**{**fields, "builds_on": tuple(fields["builds_on"]),
                             "ideas": tuple(Idea(*idea) for idea in fields["ideas"])})
            for module, fields in table.items()}
    return {**ours, **ANCESTORS}


@functools.cache
def followers() -> Mapping[str, tuple[str, ...]]:
    """The papers that take an idea from each, in their order of appearance: the inverse of `Paper.ideas`."""
    users = defaultdict[str, list[str]](list)
    for key, paper in papers().items():
        for idea in paper.ideas:
            users[idea.of].append(key)
    return {key: tuple(sorted(set(users[key]), key=lambda user: (papers()[user].appeared, user))) for key in papers()}


@functools.cache
def importers() -> Mapping[str, tuple[str, ...]]:
    """The modules whose files import each: the inverse of `Paper.builds_on`."""
    users = defaultdict[str, list[str]](list)
    for key, paper in papers().items():
        for module in paper.builds_on:
            users[module].append(key)
    return {key: tuple(sorted(users[key])) for key in papers()}


def ancestry(key: str) -> frozenset[str]:
    """The papers that one builds on as ideas, at any remove.

    `"foundations.seq2seq" in ancestry("backbones.swin")` is true: Swin, ViT, the Transformer, alignment.
    """
    return _reach({user: tuple(idea.of for idea in paper.ideas) for user, paper in papers().items()}, key)


def posterity(key: str) -> frozenset[str]:
    """The papers that build on one, at any remove."""
    return _reach(followers(), key)


def _reach(steps: Mapping[str, tuple[str, ...]], start: str) -> frozenset[str]:
    reached = set[str]()
    waiting = [start]
    while waiting:
        new = set(steps[waiting.pop()]) - reached
        reached |= new
        waiting += new
    return frozenset(reached)
