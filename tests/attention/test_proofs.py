"""Every mechanism, position code and foundation equals its reference, or has the exact properties that define it."""
import importlib
import pkgutil

import pytest

import tests.attention
import tests.foundations
import tests.positions
from tests.attention.proof import Proof
from vitrail.core import catalogue


def proofs() -> list[Proof]:
    """Every PROOFS of the files proofs_*.py."""
    found: list[Proof] = []
    for package in (tests.attention, tests.positions, tests.foundations):
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
            if module.name.startswith("proofs_"):
                found += importlib.import_module(f"{package.__name__}.{module.name}").PROOFS
    return found


@pytest.mark.parametrize("proof", proofs(), ids=str)
def test_equal_to_its_reference(proof: Proof) -> None:
    assert proof.difference() <= proof.tolerance


def test_every_name_is_proven() -> None:
    names = {n for kind in ("attention", "position", "foundation") for n in catalogue.names(kind)}
    proven = {p.name for p in proofs()}
    assert names == proven, f"unproven: {names - proven}; unknown: {proven - names}"
