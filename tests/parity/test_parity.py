"""Noise parity: the reference's tensors, filled with noise, go through the key table (strict); the outputs must agree.

Each family has a file of `CASES` in this folder; a new system is covered by adding a line to one.
"""
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.core.catalogue import names
from vitrail.weights import keys_of
from tests.parity.case import Case, Recorded, compared

TOLERANCE = 1e-5        # of the deviation of the reference's logits


def cases() -> list[Case | Recorded]:
    found = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith(("test_", "case")):
            found += importlib.import_module(f"tests.parity.{module.name}").CASES
    return found


def test_every_system_stands_in_a_table() -> None:
    assert set(names("backbone")) == {case.name for case in cases()}


@pytest.mark.parametrize("case", cases(), ids=str)
def test_outputs_equal_the_reference(case: Case | Recorded) -> None:
    for height, width in case.sizes:
        asked = case.answer(height, width)
        model = vitrail.create_model(case.name, **case.changes, **case.at(height, width))
        loaded = vitrail.load_weights(model, asked.state, keys=case.keys)
        assert not loaded.missing and not loaded.unexpected and not loaded.resized
        assert len(loaded.matched) == len(model.state_dict())
        with torch.inference_mode():
            theirs, ours = asked.logits, model.to(asked.image.dtype)(asked.image)
        assert theirs.shape == ours.shape and torch.isfinite(theirs).all()
        assert theirs.std() > 1e-3, "the reference's answer must depend on something"
        theirs, ours = compared(case, theirs, ours)
        scale = theirs.std().item()
        assert (theirs[0] - theirs[1]).abs().max() > 1e-2 * scale, "and on the image"
        assert (theirs - ours).abs().max().item() <= TOLERANCE * scale
        table = keys_of(model, case.keys)
        assert table is not None
        back = table.restore(model.float().state_dict())        # and the tensors go back under their names
        kept = {k for k in asked.state if table.rename(k) is not None}
        assert set(back) == kept and all(torch.equal(back[k], asked.state[k]) for k in kept)
