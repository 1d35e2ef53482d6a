"""A loss or a gradient that is not a number stops the run before it reaches the weights."""
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.children import bits, said, settings, together, train
from tests.training.toys import Toy, ToyBatch
from vitrail.core.errors import TrainingError
from vitrail.training.checkpoint import Checkpoints
from vitrail.training.distributed import DistributedContext
from vitrail.training.engine import Engine
from vitrail.training.health import explained
from vitrail.training.loop import fit
from vitrail.training.run import Run


def test_a_sample_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"step \d: the loss is nan.*stripe-11") as e:
        train(out, {"poison": 11})
    names = str(e.value).partition("Samples: ")[2].partition(".")[0].split(", ")
    assert len(names) == 4, "of the micro-batch alone"
    found = Checkpoints(out / "checkpoints", keep=2, say=print).newest()
    assert found is not None and found[1].step >= 5
    train(out)                                          # the sample was mended
    train(tmp_path / "whole")
    assert bits(out) == bits(tmp_path / "whole")


class Vague(Toy):
    """A part that is only logged, and that is not a number."""

    def loss(self, model: nn.Module, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        return {**super().loss(model, batch, step), "vague": torch.tensor(float("nan"))}


def test_a_part_that_is_only_logged_may_be_no_number(tmp_path: Path) -> None:
    chosen = settings(tmp_path / "run", log_every=4)            # saved between two lines of the log
    with Run.open(chosen) as run:
        fit(Vague(), chosen, run)
    assert {line["vague"] for line in bits(run.folder)["log"] if line["kind"] == "train"} == {None}


class Sharp(Toy):
    """A finite loss with an infinite gradient, at one step."""

    def loss(self, model: nn.Module, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        found = super().loss(model, batch, step)
        if step == 3:
            zero = found["loss"] * 0
            found["loss"] = found["loss"] + torch.sqrt(zero.abs())
        return found


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_a_number_does_not_touch_the_weights(tmp_path: Path, clip: float) -> None:
    chosen = settings(tmp_path, clip=clip)
    toy = Sharp()
    engine = Engine(toy, chosen, DistributedContext(device=torch.device("cpu")))
    for step, batch in enumerate(toy.batches(0, 1).epoch(0)):
        before = {f"{g}.{n}": t.clone() for g, ts in engine.groups().items() for n, t in ts.items()}
        if step < 3:
            engine.train(batch, step, 1e-3, lambda: False)
            continue
        with pytest.raises(TrainingError, match="step 3: the norm of the gradient is nan.*Samples: stripe-"):
            engine.train(batch, step, 1e-3, lambda: False)
        after = {f"{g}.{n}": t for g, ts in engine.groups().items() for n, t in ts.items()}
        assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
        break


def test_only_the_process_with_the_sample_names_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert together(out, 2, {"poison": 11}) == [1, 1]
    both = sorted([said(out, 0), said(out, 1)], key=lambda text: "stripe-11" in text)
    assert "The samples belong to another process" in both[0] and "stripe-11" not in both[0]
    assert "stripe-11" in both[1]


def test_clipping_bounds_the_step_and_reports_the_norm_before(tmp_path: Path) -> None:
    for clip in (0.0, 0.01):
        engine = Engine(Toy(drop=0.0), settings(tmp_path, clip=clip), DistributedContext(device=torch.device("cpu")))
        outcome = engine.train(next(Toy().batches(0, 1).epoch(0)), 0, 1e-3, lambda: False)
        norm = torch.cat([p.grad.flatten() for p in engine.model.parameters() if p.grad is not None]).norm().item()
        assert outcome.norm > 1
        assert norm == pytest.approx(clip or outcome.norm, rel=1e-3)


def test_a_batch_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a batch of 4 samples"):
        chosen = settings(tmp_path / "run")
        with Run.open(chosen) as run:
            fit(Toy(batch=4), chosen, run)


@pytest.mark.parametrize(("error", "word"), [
    (torch.OutOfMemoryError("CUDA out of memory"), "smaller batch"),
    (RuntimeError("x_backward does not have a deterministic implementation, but you set "
                  "'torch.use_deterministic_algorithms(True)'"), "deterministic = false"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"), "another process")])
def test_errors_of_torch_in_words(error: Exception, word: str) -> None:
    known = explained(error, step=3, compiled=False, world=2)
    assert known is not None and word in str(known)


def test_a_bug_stays_a_bug() -> None:
    assert explained(RuntimeError("shape mismatch"), step=3, compiled=True, world=2) is None
    assert explained(KeyError("x"), step=3, compiled=True, world=1) is None


class Unrepeatable(Toy):
    """put_ may write one place twice, in any order: torch knows no repeatable way."""

    def loss(self, model: nn.Module, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        torch.zeros(2).put_(torch.zeros(2, dtype=torch.long), torch.arange(2.0))
        return super().loss(model, batch, step)


def test_an_unrepeatable_algorithm_stops_the_run_unless_allowed(tmp_path: Path) -> None:
    chosen = settings(tmp_path / "strict")
    with Run.open(chosen) as run, pytest.raises(TrainingError, match="Give deterministic = false"):
        fit(Unrepeatable(), chosen, run)
    assert not torch.are_deterministic_algorithms_enabled(), "what was before comes back"
    chosen = settings(tmp_path / "loose", deterministic=False)
    with Run.open(chosen) as run:
        fit(Unrepeatable(), chosen, run)
