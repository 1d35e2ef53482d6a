"""state.json: what it says survives the trip, and anything else in it is a CheckpointError."""
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from vitrail.core.errors import CheckpointError
from vitrail.training.state import Best, Origin, State

WHERE = Path("state.json")
ORIGIN = Origin(seed=3, batch=8, steps_per_epoch=5, model="m", data="d")
GOOD = State(step=8, epoch=1, at=3, evaluated=5, best=Best(step=5, score=0.1 + 0.2), averaged=True,
             scores={"top1": 1 / 3, "nll": None}, sums={"loss": 1e-17, "part": math.nan}, count=2, origin=ORIGIN)


def plain() -> dict[str, object]:
    """GOOD as a file holds it."""
    data: dict[str, object] = json.loads(json.dumps(GOOD.to_json(), allow_nan=False))
    return data


def test_numbers_survive_to_the_bit() -> None:
    back = State.from_json(plain(), WHERE)
    assert math.isnan(back.sums.pop("part"))
    assert back == State(**{**GOOD.__dict__, "sums": {"loss": 1e-17}})


WRONG = [None, True, -1, 1.5, 10**30, 10**400, "8", [], {}, {"a": 1}, [[1]], float("inf"), "x" * 10_000]
RIGHT: dict[str, list[object]] = {"best": [None], "scores": [{}, {"a": 1}], "sums": [{}, {"a": 1}], "averaged": [True]}


@pytest.mark.parametrize("field", [*State.__dataclass_fields__, "extra"])
def test_states_of_the_wrong_kind(field: str) -> None:
    base = plain()
    for wrong in WRONG:
        if not any(wrong is right or wrong == right and type(wrong) is type(right) for right in RIGHT.get(field, [])):
            with pytest.raises(CheckpointError):
                State.from_json({**base, field: wrong}, WHERE)
    if field in base:
        with pytest.raises(CheckpointError):
            State.from_json({k: v for k, v in base.items() if k != field}, WHERE)


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), nested)


@given(value=json_values, at=st.integers(0, 30))
@tries(max_examples=400, deadline=None)
def test_any_json_in_any_place_of_the_state(value: object, at: int) -> None:
    base = plain()
    holders = [h for h in (base, base["origin"], base["best"]) if isinstance(h, dict)]
    places = [(holder, key) for holder in holders for key in holder]
    holder, key = places[at % len(places)]
    holder[key] = value
    try:
        state = State.from_json(base, WHERE)
    except CheckpointError:
        return
    assert json.loads(json.dumps(state.to_json(), allow_nan=False)) == json.loads(json.dumps(base))


@pytest.mark.parametrize(("changes", "word"), [({"seed": 4}, "another seed: 3 there, 4 here"),
                                               ({"batch": 16}, "global batch"),
                                               ({"model": "x"}, "another network"), ({"data": "x"}, "other data"),
                                               ({"steps_per_epoch": 6}, "another number of steps")])
def test_another_origin_is_refused_with_the_reason(changes: dict[str, int], word: str) -> None:
    GOOD.refuse(ORIGIN, True, WHERE)
    with pytest.raises(CheckpointError, match=word):
        GOOD.refuse(Origin(**{**ORIGIN.__dict__, **changes}), True, WHERE)
    with pytest.raises(CheckpointError, match="written with an average"):
        GOOD.refuse(ORIGIN, False, WHERE)
