"""Several processes learn what one learns, and resume exactly; a checkpoint does not care how many wrote it."""
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.children import bits, end, said, settings, start, together, train
from vitrail.core.errors import SettingsError, TrainingError
from vitrail.training import sharded
from vitrail.training.distributed import DistributedContext, joined, pick_device

TOY = {"drop": 0.3}             # stochastic depth, drawn for the whole batch wherever its parts are


def trained(out: Path, of: int, toy: dict[str, Any] | None = None, code: int = 0, **changes: Any) -> Path:
    assert together(out, of, toy or TOY, **changes) == [code] * of, said(out)
    return out


def stopped(out: Path, of: int, toy: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A run that its processes left after step 8 of 15."""
    return trained(out, of, {**(toy or TOY), "selfterm": 7}, 143, **changes)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[k] for line in lines for k in ("loss", "accuracy", "nll") if k in line]


def close(a: Path, b: Path) -> None:
    assert losses(a) == pytest.approx(losses(b), rel=1e-5, abs=1e-5)
    ours, theirs = load_file(a / "model" / "model.safetensors"), load_file(b / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        # where a gradient is all but zero, Adam turns its rounding into whole steps
        torch.testing.assert_close(ours[name], theirs[name], atol=5e-4, rtol=1e-4)


def same(a: Path, b: Path) -> None:
    ours, theirs = bits(a), bits(b)
    assert ours == theirs


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    train(out, TOY, log_every=1, batch=8, accumulate=1)
    return out


@pytest.mark.parametrize("changes", [{"strategy": "ddp"}, {"strategy": "ddp", "accumulate": 2, "checkpointing": True},
                                     {"strategy": "fsdp"},
                                     {"strategy": "fsdp", "accumulate": 4}],
                         ids=lambda c: "-".join(map(str, c.values())))
def test_two_processes_learn_what_one_learns(alone: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    out = trained(tmp_path / "two", 2, log_every=1, **{"accumulate": 1, **changes})
    close(out, alone)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_resume_exactly(tmp_path: Path, strategy: str) -> None:
    whole = trained(tmp_path / "whole", 2, strategy=strategy)
    broken = trained(stopped(tmp_path / "broken", 2, strategy=strategy), 2, strategy=strategy)
    same(broken, whole)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_three_processes_resume_exactly(tmp_path: Path, strategy: str) -> None:
    """Three terms can be added in two orders: buckets that are built anew after the first step would show here."""
    changes: dict[str, Any] = {"strategy": strategy, "batch": 12, "accumulate": 1, "epochs": 5}
    toy = {"drop": 0.3, "norm": strategy == "ddp"}
    whole = trained(tmp_path / "whole", 3, toy, **changes)
    broken = trained(stopped(tmp_path / "broken", 3, toy, **changes), 3, toy, **changes)
    same(broken, whole)


@pytest.mark.parametrize(("first", "then"), [("fsdp", "single"), ("single", "fsdp"), ("fsdp", "ddp"), ("ddp", "single"),
                                             ("single", "ddp")])
def test_a_checkpoint_resumes_on_another_number_of_processes(alone: Path, tmp_path: Path, first: str,
                                                             then: str) -> None:
    out = tmp_path / "run"
    for strategy, toy, code in ((first, {**TOY, "selfterm": 7}, 143), (then, TOY, 0)):
        if strategy == "single":
            assert end(start(out, toy, log_every=1, accumulate=1)) == code, said(out)
        else:
            trained(out, 2, toy, code, log_every=1, accumulate=1, strategy=strategy)
    close(out, alone)
    sessions = json.loads((out / "run.json").read_text())["sessions"]
    assert [(s["from_step"], s["strategy"]) for s in sessions] == [(0, first), (8, then)]
    last = json.loads((out / "checkpoints" / "step-00000015" / "state.json").read_text())
    assert last["layout"] == ("sharded" if then == "fsdp" else "plain")


def test_a_sharded_checkpoint_is_the_plain_one_cut_in_pieces(tmp_path: Path) -> None:
    out = stopped(tmp_path / "run", 2, strategy="fsdp")
    folder = out / "checkpoints" / "step-00000008"
    names = {p.name for p in folder.iterdir()}
    assert {"state.json", "manifest.json"} < names and len(names) == 4 and ".metadata" not in names
    assert all(n.startswith("shard-") and n.endswith(".safetensors") for n in names - {"state.json", "manifest.json"})
    found = sharded.listed(folder)
    weights = {n: torch.zeros(shape) for n, (shape, _) in found["model"].items()}
    sharded.read(folder, {"model": weights}, alone=True)
    twin = stopped(tmp_path / "twin", 2, strategy="ddp")
    for name, t in load_file(twin / "checkpoints" / "step-00000008" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], t, atol=5e-4, rtol=1e-4)


def test_a_damaged_shard_is_set_aside(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 2, strategy="fsdp")
    out = stopped(tmp_path / "run", 2, strategy="fsdp")
    shard = next((out / "checkpoints" / "step-00000008").glob("shard-00002-*"))
    data = bytearray(shard.read_bytes())
    data[-5] ^= 4
    shard.write_bytes(data)
    same(trained(out, 2, strategy="fsdp"), whole)
    assert "set aside as damaged-step-00000008" in said(out)


def test_batch_norms_follow_the_first_process(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 2, {"norm": True})
    broken = trained(stopped(tmp_path / "broken", 2, {"norm": True}), 2, {"norm": True})
    same(broken, whole)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 2)
    out = tmp_path / "run"
    codes = together(out, 2, {**TOY, "selfkill": 9})
    assert codes == [1, -9]
    assert "TrainingError" in said(out) and "Start the same command again" in said(out)
    same(trained(out, 2), whole)


@pytest.mark.parametrize(("changes", "word"), [
    ({"batch": 9, "accumulate": 1}, "cannot be shared by 2 processes x 1"),
    ({"batch": 6, "accumulate": 6}, "cannot be shared by 2 processes x 6"),
    ({"strategy": "single"}, "torchrun started 2")])
def test_what_two_processes_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any],
                                      word: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=word), joined(settings(tmp_path, **changes)):
        pass


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_without_torchrun_it_says_how(tmp_path: Path, strategy: str) -> None:
    assert "RANK" not in os.environ
    with pytest.raises(SettingsError, match="torchrun --nproc-per-node"), joined(settings(tmp_path, strategy=strategy)):
        pass


def test_a_wrong_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SettingsError, match="WORLD_SIZE"), joined(settings(tmp_path)):
        pass


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu", "cpu:3", "xla", ""])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(SettingsError):
        pick_device(name)


def test_only_the_first_process_acts_and_its_failure_is_its_own() -> None:
    place = DistributedContext(device=torch.device("cpu"))
    assert place.first(lambda: 7, "counting") == 7
    with pytest.raises(TrainingError, match="mine"):
        place.first(lambda: (_ for _ in ()).throw(TrainingError("mine")), "failing")
