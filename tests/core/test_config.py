"""A saved config: what is written is read back, whatever it holds; what is not one is refused."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core.config import FORMAT, ModelConfig, Preprocessing
from vitrail.core.errors import CheckpointError, ModelError
from vitrail.tasks.classification.spec import ClassificationSpec
from vitrail.tasks.language.spec import LanguageSpec
from vitrail.tasks.language.vocabulary import Vocabulary

number = st.floats(0.01, 1, allow_nan=False)
preprocessing = st.builds(Preprocessing, size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
                          mean=st.tuples(number, number, number), std=st.tuples(number, number, number), crop=number,
                          interpolation=st.sampled_from(["bicubic", "bilinear", "nearest"]))
value = st.one_of(st.integers(), st.booleans(), st.text(), st.none(), st.floats(allow_nan=False, allow_infinity=False),
                  st.lists(st.integers(), max_size=3).map(tuple))
specs = st.one_of(
    st.tuples(st.just("classification"), st.builds(
        ClassificationSpec, labels=st.lists(st.text(), max_size=4).map(tuple), preprocessing=preprocessing)),
    st.tuples(st.just("language"), st.builds(LanguageSpec, kind=st.just("causal"), length=st.integers(1, 999),
                                             vocabulary=st.just(Vocabulary("words", ("a", "b"))))))
edit = st.fixed_dictionaries({"kind": st.text(), "heads": st.lists(st.integers(0, 9))})
edits = st.lists(edit, max_size=2).map(tuple)
configs = st.builds(lambda spec, **fields: ModelConfig(task=spec[0], spec=spec[1], **fields), specs, model=st.text(),
                    arguments=st.dictionaries(st.text(), value, max_size=4), mixer=st.text(), edits=edits)


@given(configs)
def test_what_is_written_is_read_back(config: ModelConfig) -> None:
    written = json.loads(json.dumps({"format": FORMAT, **config.to_json()}))
    assert ModelConfig.from_json(written) == config


GOOD = {"format": FORMAT, **ModelConfig(model="vit_s16", task="classification", arguments={"depth": 4},
                                        spec=ClassificationSpec(labels=("cat", "dog"))).to_json()}


@pytest.mark.parametrize("change", [
    {"model": None, "arguments": 3}, {"spec": None}, {"spec": {"labels": 3}}, {"spec": {}}, {"arguments": "depth"},
    {"spec": {"labels": [], "preprocessing": {"size": [1, 1], "zoom": 3}}}, {"edits": 3}, {"edits": ["prune"]},
    {"format": "timm-1"}, {"format": None}])
def test_what_is_not_a_config_is_refused(change: dict[str, object]) -> None:
    ModelConfig.from_json(GOOD)
    with pytest.raises(CheckpointError):
        ModelConfig.from_json({**GOOD, **change})


def test_a_task_that_is_not_known_is_named() -> None:
    with pytest.raises(ModelError, match="no task 'painting'.*--plugin"):
        ModelConfig.from_json({**GOOD, "task": "painting"})


@pytest.mark.parametrize("missing", ["model", "task", "arguments", "spec"])
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(CheckpointError, match=f"does not describe a vitrail model.*{missing}"):
        ModelConfig.from_json({name: value for name, value in GOOD.items() if name != missing})
