"""The original releases' tensors, recorded as names and shapes from the original code, against our key tables.

Each `tests/golden/<family>.official.json` is {variant: {"source": where, "tensors": {name: shape}}}. A new family is
covered by adding its file.
"""
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from vitrail.core.keys import Keys
from vitrail.weights import keys_of
from vitrail.tasks.classification.model import Classifier

FILES = sorted((Path(__file__).parents[1] / "golden").glob("*.official.json"))
RELEASES = [(variant, release) for file in FILES for variant, release in json.loads(file.read_text("utf-8")).items()]


@functools.cache
def _model(variant: str) -> tuple[Classifier, Keys]:
    with torch.device("meta"):
        model = vitrail.create_model(variant)
    table = keys_of(model, "official")
    assert table is not None
    return model, table


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in state.items()}


def _official(release: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in release["tensors"].items()}


@pytest.mark.parametrize("variant, release", RELEASES, ids=[v for v, _ in RELEASES])
def test_the_table_maps_the_release_onto_the_model(variant: str, release: dict[str, Any]) -> None:
    model, table = _model(variant)
    assert "@" in release["source"], "repository, path and commit"
    # translate() refuses an unknown name, two names for one tensor, and a tensor whose pieces are not all there
    assert _shapes(table.translate(_official(release))) == _shapes(model.state_dict())


@pytest.mark.parametrize("variant, release", RELEASES, ids=[v for v, _ in RELEASES])
def test_and_the_model_back_onto_the_release(variant: str, release: dict[str, Any]) -> None:
    model, table = _model(variant)
    kept = {name: t for name, t in _official(release).items() if table.rename(name) is not None}
    assert _shapes(table.restore(model.state_dict())) == _shapes(kept)


def test_every_family_here_is_there() -> None:
    assert {"swin_t", "swin_b_384", "resnet18", "resnet50"} <= {variant for variant, _ in RELEASES}


def test_only_buffers_that_follow_from_the_size_are_left_out_of_swin() -> None:
    left = {name.rpartition(".")[2] for variant, release in RELEASES if variant.startswith("swin_")
            for name in release["tensors"] if _model(variant)[1].rename(name) is None}
    assert left == {"attn_mask", "relative_position_index", "relative_coords_table"}       # the last, of Swin V2
