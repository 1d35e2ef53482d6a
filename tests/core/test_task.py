"""What a task declares, how it is found, and how its numbers are written."""
import math
from dataclasses import replace

import pytest

from vitrail.core import task as tasks
from vitrail.core.errors import ModelError, VitrailError
from vitrail.core.lazy import Lazy
from vitrail.core.score import Metric, Score
from vitrail.core.task import find_task, register_task, task_for, task_names


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> tasks.Task:
    """A task of one's own, which is forgotten afterwards."""
    monkeypatch.setattr(tasks, "_REGISTERED", {})
    return replace(find_task("classification"), name="mine", kinds=("mine_too",), predict=None)


def test_a_task_is_found_by_its_name_its_kinds_and_its_models() -> None:
    assert find_task("causal") is find_task("language") and find_task("language").name in task_names()
    assert task_for("swin_t").name == "classification" and task_for("gpt_tiny").name == "language"
    assert task_for("gpt_tiny", "classification").name == "classification"
    with pytest.raises(ModelError, match="no task 'langauge'.*Did you mean 'language'.*--plugin"):
        find_task("langauge")
    with pytest.raises(ModelError, match="swin_t"):
        task_for("swin_tt")


def test_a_task_of_ones_own_is_registered(mine: tasks.Task) -> None:
    assert "mine" not in task_names()
    assert register_task(mine) is mine is find_task("mine") is find_task("mine_too")
    register_task(mine)  # as a file that is imported again does
    with pytest.raises(VitrailError, match="vitrail's own"):
        register_task(replace(mine, name="language"))


def test_what_a_task_cannot_do_names_those_that_can(mine: tasks.Task) -> None:
    register_task(mine)
    with pytest.raises(ModelError, match="models for mine cannot be asked to predict; models for classification can"):
        mine.require("predict")
    with pytest.raises(ModelError, match="be asked to read inputs; models for classification, language, mine can"):
        replace(mine, read_inputs=None).require("read_inputs")
    assert mine.require("explain") is mine.explain


def test_a_headline_is_one_of_the_metrics(mine: tasks.Task) -> None:
    with pytest.raises(ModelError, match="headline 'zeal'"):
        replace(mine, headline="zeal")


def test_a_lazy_name_is_called_and_read_as_what_it_names() -> None:
    assert Lazy("math:sqrt")(9.0) == 3.0
    assert Lazy("pathlib:Path").target.__name__ == "Path" and Lazy("pathlib:Path").cwd().is_dir()
    with pytest.raises(ImportError, match="math holds nothing called 'cube'"):
        Lazy("math:cube")(3)


@pytest.mark.parametrize(("metric", "score", "value", "interval"), [
    (Metric(label="a", share=True), Score(0.98054, 0.96028, 0.99056), "98.05 %", "96.03 to 99.06"),
    (Metric(label="b", digits=3), Score(15.28279), "15.283", ""),
    (Metric(label="c"), Score(-0.5, -1.0, math.inf), "-0.5000", "-1.0000 to inf")])
def test_a_score_is_written_as_its_metric_says(metric: Metric, score: Score, value: str, interval: str) -> None:
    assert metric.value(score) == value and metric.interval(score) == interval
    assert score.has_interval == bool(interval) and ("low" in score.to_json()) == bool(interval)
