"""vitrail train: from a folder of photos to a run, and stopping on the way."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Ask
from vitrail.tasks.classification.settings import ClassificationSettings

ROOT = Path(__file__).parents[2]


def test_a_run_holds_what_it_promises(run: Path) -> None:
    for name in ("settings.toml", "run.json", "metrics.jsonl", "evaluation.json", "report.html", "model/config.json"):
        assert (run / name).is_file(), name
    settings = ClassificationSettings.read(run / "settings.toml")
    assert settings.model.arguments() == {"depth": 1, "dim": 32, "heads": 2, "patch": 8}


def test_the_same_command_again_leaves_a_finished_run_as_it_is(ask: Ask, run: Path) -> None:
    before = (run / "model" / "model.safetensors").read_bytes()
    found = ask("train", "--settings", run / "settings.toml", "--json")
    assert found.code == 0 and (run / "model" / "model.safetensors").read_bytes() == before
    assert found.json["run"] == str(run) and 0 <= found.json["scores"]["top1"]["value"] <= 1
    assert Path(found.json["report"]).is_file() and Path(found.json["model"]).is_dir()


def test_another_run_does_not_go_into_the_same_folder(ask: Ask, run: Path) -> None:
    found = ask("train", "--settings", run / "settings.toml", "--lr", "1e-4")
    assert found.code == 2 and "lr" in found.err and "0.0001" in found.err


@pytest.mark.parametrize(("words", "code", "said"), [
    (["--data", "nowhere"], 1, "nowhere"), (["--model", "vit_s61"], 2, "'vit_s16'"),
    (["--set", "dpth=1"], 2, "'depth'"),
    (["--set", "heads=5", "dim=32"], 2, "cannot be built"), (["--set", "depth=[1]"], 2, ""),
    (["--batch", "4096"], 2, "4096"),
    (["--weights", "nope"], 2, "release"), (["--teacher", "nope", "--distillation", "hard"], 2, "'nope'"),
    (["--device", "tpu"], 2, "'tpu'"), (["--resume", "must"], 2, "resume")])
def test_what_cannot_be_trained_is_said_before_anything_is_written(
        ask: Ask, photos: Path, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    given = [w for name, value in (("--data", photos), ("--batch", 8)) if name not in words for w in (name, value)]
    found = ask("train", "--out", tmp_path / "r", "--epochs", "1", "--size", "16", *given, *words)
    assert found.code == code and said in found.err and found.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "r" / "run.json").exists()


def test_a_folder_with_other_things_in_it_is_left_alone(ask: Ask, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    found = ask("train", *TINY, "--data", photos, "--out", tmp_path)
    assert found.code == 2 and "mine.txt" in found.err and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_ctrl_c_before_the_first_step(ask: Ask, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vitrail.recipes.train as recipe

    def interrupted(task: object, settings: object) -> Path:
        raise KeyboardInterrupt
    monkeypatch.setattr(recipe, "train", interrupted)
    found = ask("train", *TINY, "--data", photos, "--out", tmp_path / "r")
    assert found.code == 130 and "the same command" in found.err and str(tmp_path / "r") in found.err


def test_sigterm_before_the_first_step(ask: Ask, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vitrail.recipes.train as recipe

    def told(task: object, settings: object) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("the signal did not arrive")
    monkeypatch.setattr(recipe, "train", told)
    before = signal.getsignal(signal.SIGTERM)
    found = ask("train", *TINY, "--data", photos, "--out", tmp_path / "r")
    assert found.code == 143 and "the same command" in found.err and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_the_run_saves_it(photos: Path, tmp_path: Path, number: int, code: int) -> None:
    words = ["train", *TINY, "--data", str(photos), "--out", str(tmp_path / "r"), "--log-every", "1"]
    words[words.index("--epochs") + 1] = "100000"
    process = subprocess.Popen([sys.executable, "-m", "vitrail", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    line = ""
    while "epoch 2/" not in line:
        line = process.stderr.readline()
        assert line, "the run ended by itself"
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert "the same command goes on" in said.splitlines()[-1] and "Traceback" not in said
    assert list((tmp_path / "r" / "checkpoints").glob("step-*"))


def test_the_end_says_what_was_reached_and_by_which_weights(ask: Ask, run: Path) -> None:
    said = ask("train", "--settings", run / "settings.toml").out.splitlines()
    assert said[0].startswith("held out: top-1 accuracy ")
    assert re.search(r"top-1 accuracy [\d.]+ % \([\d.]+ to [\d.]+\)", said[0])
    assert re.search(r"; the weights of step \d+ of 8$", said[0])
    assert said[1:] == [f"model   {run / 'model'}", f"report  {run / 'report.html'}"]
