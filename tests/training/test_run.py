"""The folder of a run: what is in it, and what is never overwritten."""
import json
import multiprocessing
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from tests.training.children import bits, settings, start, train
from tests.training.test_resume import run_until
from tests.training.test_signals import wait_for
from tests.training.toys import Toy, ToyBatch
from vitrail.core.errors import SettingsError, TrainingError
from vitrail.nn import DropPath, Stack, share
from vitrail.training.loop import fit
from vitrail.training.run import Run
from vitrail.training.objective import part


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "run"
    run_until(out, 9, {})
    train(out)
    return out


def test_the_folder_tells_all(done: Path) -> None:
    assert tomllib.loads((done / "settings.toml").read_text())["lr"] == 0.003
    record = json.loads((done / "run.json").read_text())
    assert record["task"] == {"fingerprint": "stripes", "samples": 44}
    assert record["finished"]["steps"] == 15 and set(record["finished"]) == {"steps", "chosen", "score", "scores"}
    first, second = record["sessions"]
    assert (first["from_step"], second["from_step"]) == (0, 8)
    assert {"python", "torch", "safetensors"} <= set(first["versions"])
    assert {"device", "threads", "capability", "processors"} <= set(first["machine"])
    assert first["command"] and first["settings"]["batch"] == 8
    assert set(first["git"]) == {"vitrail", "here"}
    assert all(g is None or (len(g["commit"]) == 40 and isinstance(g["changed"], bool)) for g in first["git"].values())
    assert (done / "model" / "config.json").exists()


def test_the_log_has_one_line_an_interval_and_one_a_score(done: Path) -> None:
    log = bits(done)["log"]
    assert [(line["kind"], line["step"], line["epoch"]) for line in log] == [
        ("train", 2, 1), ("train", 4, 1), ("train", 5, 1), ("eval", 5, 1), ("train", 6, 2), ("train", 8, 2),
        ("train", 10, 2), ("eval", 10, 2), ("train", 12, 3), ("train", 14, 3), ("train", 15, 3), ("eval", 15, 3)]
    assert set(log[0]) == {"kind", "step", "epoch", "loss", "spread", "norm", "lr"}


def test_tensorboard_shows_the_same_after_a_stop(done: Path) -> None:
    board = EventAccumulator(str(done / "tensorboard"))
    board.Reload()
    steps = [e.step for e in board.Scalars("train/loss")]
    assert steps == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert [e.value for e in board.Scalars("train/loss")] == pytest.approx(
        [line["loss"] for line in bits(done)["log"] if line["kind"] == "train"])


@pytest.mark.parametrize("name", ["notes.txt", "metrics.jsonl", ".hidden", "checkpoints"])
def test_foreign_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(SettingsError, match="no run's"):
        train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_somebody_elses_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("lr = 3\n")
    with pytest.raises(SettingsError, match="'out' is missing"):
        train(tmp_path)
    assert (tmp_path / "settings.toml").read_text() == "lr = 3\n"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "vitrail-run/1"}', '{"format": 1}', "\xff",
                                  '{"format": "vitrail-run/1", "task": {}, "sessions": {}, "finished": null}',
                                  '{"format": "vitrail-run/1", "task": {}, "sessions": [], "finished": 3}'])
def test_a_run_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError):
        train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(SettingsError, match="is no folder"):
        train(tmp_path / "run")


def test_must_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no run to go on with"):
        train(tmp_path / "run", resume="must")
    assert not (tmp_path / "run").exists()


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    child = start(out, {"deaf": 300.0}, log_every=1)
    wait_for(out / "metrics.jsonl", 5)
    with pytest.raises(SettingsError, match="another process is training"):
        train(out, log_every=1)
    child.kill()
    child.join()
    train(out, log_every=1)                 # the lock died with its process
    assert not multiprocessing.active_children()


def test_the_users_own_files_in_a_run_stay(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_until(out, 7, {})
    (out / "notes.txt").write_text("mine")
    train(out)
    assert (out / "notes.txt").read_text() == "mine"


def test_scores_that_are_no_numbers_are_null(tmp_path: Path) -> None:
    class Odd(Toy):
        def evaluate(self, *args: Any) -> dict[str, float]:
            return {"accuracy": float("nan"), "nll": float("inf")}
    chosen = settings(tmp_path / "run")
    with Run.open(chosen) as run:
        result = fit(Odd(), chosen, run)
    assert (result.chosen, result.score) == (15, None)
    lines = [json.loads(x) for x in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["accuracy"] for line in lines if line["kind"] == "eval"} == {None}


class Nothing(Toy):
    def batches(self, rank: int, of: int) -> Any:
        return []


class Short(Toy):
    def batches(self, rank: int, of: int) -> Any:
        class Less:
            def __len__(self) -> int:
                return 5

            def epoch(self, epoch: int, start: int = 0) -> Any:
                return iter(list(Toy().batches(rank, of).epoch(epoch, start))[:2])
        return Less()


class Headless(Toy):
    def evaluate(self, *args: Any) -> dict[str, float]:
        return {"top1": 1.0}


@pytest.mark.parametrize(("toy", "error", "word"), [(Nothing(), SettingsError, "do not fill one batch"),
                                                    (Short(), TrainingError, "ended at step 2 of epoch 1"),
                                                    (Headless(), TrainingError, "not its headline 'accuracy'")])
def test_tasks_that_break_their_word(tmp_path: Path, toy: Toy, error: type[Exception], word: str) -> None:
    chosen = settings(tmp_path / "run")
    with Run.open(chosen) as run, pytest.raises(error, match=word):
        fit(toy, chosen, run)


def test_parts_of_a_batch() -> None:
    batch = next(Toy().batches(0, 1).epoch(2))
    parts = [part(batch, k, 4) for k in range(4)]
    assert torch.equal(torch.cat([p.images for p in parts]), batch.images)
    assert [n for p in parts for n in p.names] == batch.names and {p.epoch for p in parts} == {2}
    with pytest.raises(TrainingError, match="3 equal micro-batches"):
        part(batch, 0, 3)


def test_recomputed_parts_draw_what_the_whole_batch_draws_in_autograds_threads_too() -> None:
    """On a device, autograd works in threads of its own: there too a recomputed part must know its share."""
    import threading
    stack = Stack([DropPath(0.5)])
    stack.checkpointing = True
    x = torch.ones(4, 3, requires_grad=True)
    torch.manual_seed(3)
    with share(1, 2):
        y = stack(x)
        thread = threading.Thread(target=lambda: y.sum().backward())
        thread.start()
        thread.join()
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    assert 0 < int((y == 0).all(1).sum()) < 4, "some were dropped, or nothing was tested"


def test_loss_and_batch_protocols_are_met_by_the_toy() -> None:
    from vitrail.training.objective import Step, Objective
    toy: Objective = Toy()
    step = Step(toy.model(), toy)
    losses: dict[str, Tensor] = step(next(iter(toy.batches(0, 1).epoch(0))), 0)
    assert losses["loss"].ndim == 0 and isinstance(step.model, nn.Module) and isinstance(losses, dict)
    assert isinstance(next(iter(toy.batches(0, 1).epoch(0))), ToyBatch)
