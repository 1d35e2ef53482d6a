"""A model's identity goes through JSON and back unchanged; what is no identity is refused."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core.errors import CheckpointError
from vitrail.core.config import ModelConfig, Preprocessing

number = st.floats(0, 1, allow_nan=False)
preprocessing = st.builds(Preprocessing, size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
                 mean=st.tuples(number, number, number), std=st.tuples(number, number, number), crop=number,
                 interpolation=st.sampled_from(["bicubic", "bilinear", "nearest"]))
value = st.one_of(st.integers(), st.booleans(), st.text(), st.none(), st.floats(allow_nan=False, allow_infinity=False),
                  st.lists(st.integers(), max_size=3).map(tuple))
identities = st.builds(ModelConfig, model=st.text(), task=st.text(), changes=st.dictionaries(st.text(), value, max_size=4),
                       labels=st.lists(st.text(), max_size=4).map(tuple), preprocessing=preprocessing)


@given(identities)
def test_round_trip(config):
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


GOOD = ModelConfig(model="vit_s16", labels=("cat", "dog"), changes={"depth": 4}).to_json()


@pytest.mark.parametrize("missing", ["model", "task", "changes", "labels", "preprocessing"])
def test_a_missing_field(missing):
    with pytest.raises(CheckpointError, match=missing):
        ModelConfig.from_json({k: v for k, v in GOOD.items() if k != missing})


@pytest.mark.parametrize("change", [{"labels": 3}, {"changes": 7}, {"changes": [1, 2]}, {"preprocessing": "224"},
                                    {"preprocessing": {"sise": [8, 8]}}])
def test_a_field_of_the_wrong_kind(change):
    with pytest.raises(CheckpointError, match="does not describe a vitrail model"):
        ModelConfig.from_json({**GOOD, **change})
