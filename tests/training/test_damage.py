"""Bit rot: every change of a checkpoint is noticed, the one before it is used, and nothing is deleted."""
import random
import shutil
from pathlib import Path

import pytest

from tests.training.children import bits, settings, train
from tests.training.test_resume import run_until
from tests.training.toys import Toy
from vitrail.core.errors import CheckpointError, SettingsError
from vitrail.training import manifest
from vitrail.training.checkpoint import Checkpoints
from vitrail.training.loop import fit
from vitrail.training.run import Run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 6 and 8."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    run_until(out, 9, {})
    assert sorted(p.name for p in (out / "checkpoints").glob("step-*"))[-2:] == ["step-00000006", "step-00000008"]
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return out


def damage(path: Path, dice: random.Random) -> str:
    """One bit flipped, bytes cut off, or bytes added."""
    data = bytearray(path.read_bytes())
    how = dice.choice(["flip", "flip", "flip", "cut", "grow"])
    if how == "flip":
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif how == "cut":
        del data[dice.randrange(len(data)):]
    else:
        data += bytes(dice.randrange(1, 9))
    path.write_bytes(data)
    return how


def test_three_hundred_changes_are_all_noticed(stopped: Path, tmp_path: Path) -> None:
    dice = random.Random(3)
    folder = tmp_path / "checkpoints"
    names = sorted(p.name for p in (stopped / "checkpoints" / "step-00000008").iterdir())
    assert names == ["ema.safetensors", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    for number in range(300):
        shutil.copytree(stopped / "checkpoints", folder)
        name = names[number % len(names)]
        how = damage(folder / "step-00000008" / name, dice)
        told: list[str] = []
        found = Checkpoints(folder, keep=2, say=told.append).newest()
        assert found is not None and found[1].step == 6, f"{how} of {name}"
        assert len(told) == 1 and name in told[0] and "damaged-step-00000008" in told[0]
        assert (folder / "damaged-step-00000008" / name).exists()
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json",
                                  "manifest.json"])
def test_training_goes_on_from_the_one_before_to_the_same_end(stopped: Path, whole: Path, tmp_path: Path, name: str,
                                                              capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    damage(out / "checkpoints" / "step-00000008" / name, random.Random(name))
    train(out)
    assert bits(out) == bits(whole)
    assert "set aside as damaged-step-00000008" in capfd.readouterr().err
    assert (out / "checkpoints" / "damaged-step-00000008").is_dir()


def test_when_all_are_damaged_the_run_starts_again_or_says_so(stopped: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    for path in (out / "checkpoints").glob("step-*"):
        (path / "state.json").write_text("{}")
    with pytest.raises(SettingsError, match="no whole checkpoint"):
        train(out, resume="must")
    train(out)
    assert bits(out) == bits(whole)


def test_a_damaged_best_is_replaced_by_the_last(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Once(Toy):
        def evaluate(self, *args: object) -> dict[str, float]:
            self.losses.append(0.0)
            if len(self.losses) == 3:                   # before the last save: the best rots
                (out / "checkpoints" / "step-00000005" / "model.safetensors").write_bytes(b"rot")
            return {"accuracy": 1.0 - 0.1 * len(self.losses)}
    out = tmp_path / "run"
    with Run.open(settings(out)) as run:
        result = fit(Once(), settings(out), run)
    assert (result.chosen, result.score) == (15, pytest.approx(0.7))
    assert "the best weights are lost" in capfd.readouterr().err


def test_the_manifest_vouches_for_itself(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    manifest.seal(tmp_path)
    manifest.verify(tmp_path)
    text = (tmp_path / "manifest.json").read_bytes()
    for bit in range(0, 8 * len(text), 5):
        changed = bytearray(text)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "manifest.json").write_bytes(changed)
        with pytest.raises(CheckpointError):
            manifest.verify(tmp_path)
