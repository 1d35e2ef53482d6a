"""N steps are N/2 steps, a stop, and N/2 steps: to the last bit."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.training.children import bits, settings, train
from tests.training.toys import Toy, ToyBatch
from vitrail.core.errors import CheckpointError, SettingsError
from vitrail.training.loop import fit
from vitrail.training.run import Run


class PowerCut(Exception):
    pass


class Cut(Toy):
    """Dies in the step `cut`."""

    cut: int = -1

    def loss(self, model: nn.Module, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        if step == self.cut:
            raise PowerCut
        return super().loss(model, batch, step)


def run_until(out: Path, step: int, toy: dict[str, Any], **changes: Any) -> None:
    task = Cut(**toy)
    task.cut = step
    with Run.open(settings(out, **changes)) as run, pytest.raises(PowerCut):
        fit(task, settings(out, **changes), run)


@pytest.mark.parametrize("norm", [False, True], ids=["layernorm", "batchnorm"])
@pytest.mark.parametrize("changes", [{}, {"accumulate": 1, "ema": 0.0}, {"precision": "bf16"}, {"checkpointing": True},
                                     {"save_every": 0, "log_every": 4}, {"log_every": 3},
                                     {"deterministic": False, "keep": 1}],
                         ids=lambda c: "-".join(c) or "all")
def test_resume_is_exact(tmp_path: Path, changes: dict[str, Any], norm: bool) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, {"norm": norm}, **changes)
    for cut in (1, 7, 9, 11):                   # before the first checkpoint, inside epochs, and three times in one run
        run_until(broken, cut, {"norm": norm}, **changes)
    train(broken, {"norm": norm}, **changes)
    assert bits(broken) == bits(whole)
    starts = [s["from_step"] for s in json.loads((broken / "run.json").read_text())["sessions"]]
    assert starts == ([0, 0, 5, 5, 10] if changes.get("save_every") == 0 else [0, 0, 6, 8, 10])


def test_accumulation_is_the_whole_batch_stochastic_depth_included(tmp_path: Path) -> None:
    losses, weights = [], []
    for count in (1, 2, 4):
        out = tmp_path / str(count)
        train(out, accumulate=count, log_every=1)
        losses.append([line["loss"] for line in bits(out)["log"] if line["kind"] == "train"])
        weights.append(load_file(out / "model" / "model.safetensors"))
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], rel=1e-5, abs=1e-5)
        for name, t in weights[0].items():
            # where a gradient is all but zero, Adam turns its rounding into whole steps
            torch.testing.assert_close(weights[other][name], t, atol=5e-4, rtol=1e-4)


def test_checkpointing_changes_no_loss(tmp_path: Path) -> None:
    for flag in (False, True):
        train(tmp_path / str(flag), checkpointing=flag)
    assert bits(tmp_path / "True") == bits(tmp_path / "False")


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    train(out, {"poison": 0, "nap": 100.0})         # not even the task is asked
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_the_best_weights_are_handed_over(tmp_path: Path) -> None:
    class Falling(Toy):
        def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
            self.losses.append(0.0)
            return {"accuracy": [0.2, 0.9, 0.9, float("nan")][len(self.losses) - 1]}
    chosen = settings(tmp_path / "run", epochs=4, keep=1, save_every=3)
    with Run.open(chosen) as run:
        result = fit(Falling(), chosen, run)
    assert (result.chosen, result.score, result.steps) == (10, 0.9, 20)      # the first of equals; NaN is never best
    best = load_file(run.checkpoints / "step-00000010" / "ema.safetensors")
    given = load_file(result.model / "model.safetensors")
    assert set(best) == set(given) and all(torch.equal(best[n], given[n]) for n in given)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["best.json", "step-00000010", "step-00000020"]


def test_lower_can_be_better(tmp_path: Path) -> None:
    chosen = settings(tmp_path / "run", epochs=3)
    with Run.open(chosen) as run:
        result = fit(Toy(headline="nll", larger_is_better=False), chosen, run)
    scores = [line["nll"] for line in bits(tmp_path / "run")["log"] if line["kind"] == "eval"]
    assert result.score == min(scores)


@pytest.mark.parametrize(("changes", "toy", "word"), [
    ({"batch": 4}, {}, "batch: 8 there, 4 here"), ({"seed": 1}, {}, "seed: 0 there, 1 here"),
    ({"lr": 1e-3}, {}, "lr: 0.003 there"), ({"ema": 0.0}, {}, "ema: 0.9 there"), ({}, {"data": "other"}, "other data"),
    ({"resume": "never"}, {}, "holds a run already"), ({}, {"norm": True}, "another network")])
def test_another_run_is_refused_and_nothing_is_touched(tmp_path: Path, changes: dict[str, Any], toy: dict[str, Any],
                                                       word: str) -> None:
    out = tmp_path / "run"
    run_until(out, 7, {})
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises((SettingsError, CheckpointError), match=word):
        train(out, toy, **changes)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_what_does_not_change_the_result_may_change(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    run_until(tmp_path / "run", 7, {})
    train(tmp_path / "run", keep=5, workers=3, resume="must")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
