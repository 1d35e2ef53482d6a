"""`--plugin FILE.py`: a task, a model and a mixer of the user's own for every command, and what is said of bad ones."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import TINY, Answer

ROOT = Path(__file__).parents[2]
BOXES = ROOT / "tests" / "toys" / "boxes.py"
MIXER = '''
"""A mixer of one's own: every token gets the mean of all."""
from torch import Tensor, nn


class Mean(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(1, keepdim=True).expand_as(x))
'''
BAD = {"raises": "import os\nos.no_such_thing\n", "syntax": "def f(:\n", "missing": "import no_such_module_anywhere\n",
       "taken": "from vitrail.core.catalogue import register_model\nfrom vitrail.core.catalogue import variant_of\n"
                "register_model('vit_s16', variant_of('vit_s16'), tasks=('classification',))\n",
       "leaves": "raise SystemExit(7)\n"}


def vitrail(*words: object, cwd: Path = ROOT) -> Answer:
    """Runs `vitrail` in a process of its own: what a plugin registers stays in it."""
    process = subprocess.run([sys.executable, "-m", "vitrail", *map(str, words)], cwd=cwd, capture_output=True,
                             text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "Traceback" not in process.stderr
    return Answer(process.returncode, process.stdout, process.stderr)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy task, made by the command itself."""
    out = tmp_path_factory.mktemp("toys") / "boxes"
    answer = vitrail("train", "--plugin", BOXES, "--model", "toy_detector", "--data", "squares:16", "--out", out,
                     "--epochs", 1, "--batch", 4, "--threads", 1, "--json")
    assert answer.code == 0, answer.err
    assert 0 <= answer.json["scores"]["iou"]["value"] <= 1 and Path(answer.json["report"]).is_file()
    return out


@pytest.fixture(scope="module")
def mean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mixers") / "mean.py"
    file.write_text(MIXER)
    return file


def test_a_task_of_ones_own_has_every_verb(boxes: Path, tmp_path: Path) -> None:
    judged = vitrail("evaluate", boxes, "--held-out-of-run", f"--plugin={BOXES}")
    assert judged.code == 0 and "overlap" in judged.out, judged.err
    Image.new("RGB", (48, 40), "white").save(tmp_path / "a.png")
    answers = vitrail("--plugin", BOXES, "predict", boxes, tmp_path / "a.png", "--json").json
    assert answers["model"] == "toy_detector" and len(answers["predictions"][0]["boxes"]) == 1
    explained = vitrail("explain", boxes, tmp_path / "a.png", "--out", tmp_path / "maps", "--plugin", BOXES)
    assert explained.code == 0 and len(list((tmp_path / "maps").iterdir())) == 1, explained.err
    refused = vitrail("generate", boxes, "a text", "--plugin", BOXES)
    said = "models for toy_boxes cannot be asked to generate; models for language can"
    assert refused.code == 2 and said in refused.err


def test_its_settings_and_its_names_are_known(boxes: Path) -> None:
    page = vitrail("train", "--plugin", BOXES, "--model", "toy_detector", "--help")
    assert page.code == 0 and "--val-fraction" in page.out and "--randaugment" not in page.out
    listed = vitrail("list", "--task", "toy_boxes", "--plugin", BOXES, "--json").json
    assert [entry["name"] for entry in listed] == ["toy_detector"]
    wrong = vitrail("train", "--plugin", BOXES, "--model", "toy_detectr", "--out", "r")
    assert wrong.code == 2 and "'toy_detector'" in wrong.err


def test_without_its_plugin_a_run_says_what_is_missing(boxes: Path) -> None:
    for words in (["evaluate", boxes, "--held-out-of-run"], ["predict", boxes, BOXES],
                  ["explain", boxes, BOXES, "--out", "o"]):
        answer = vitrail(*words)
        assert answer.code == 2 and "there is no task 'toy_boxes'" in answer.err and "--plugin FILE.py" in answer.err
    assert "'toy_detector'" in vitrail("train", "--model", "toy_detector", "--out", "r").err


def test_a_mixer_of_ones_own(mean: Path, photos: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "run", photos / "dark" / "0.png"
    trained = vitrail("train", *TINY, "--mixer", f"{mean}:Mean", "--data", photos, "--out", out, "--threads", 1)
    assert trained.code == 0, trained.err
    assert json.loads((out / "model" / "config.json").read_text("utf-8"))["mixer"] == "mean.Mean"
    without = vitrail("predict", out, image)
    assert without.code == 1 and "mean.Mean" in without.err and "--plugin" in without.err
    answers = vitrail("predict", out, image, "--plugin", mean, "--json")
    assert answers.code == 0 and answers.json["predictions"][0]["label"] in ("dark", "light")
    moved = tmp_path / "elsewhere" / "mean.py"
    moved.parent.mkdir()
    shutil.copy(mean, moved)
    assert vitrail("predict", out, image, "--plugin", moved, "--json").out == answers.out, "wherever the file lies"


@pytest.mark.parametrize(("word", "said"), [("Maen", "Did you mean 'Mean'"), ("nn.Linear", "holds nothing called"),
                                            ("Tensor", "is not a mixer")])
def test_a_wrong_mixer_is_refused(mean: Path, photos: Path, tmp_path: Path, word: str, said: str) -> None:
    answer = vitrail("train", *TINY, "--mixer", f"{mean}:{word}", "--data", photos, "--out", tmp_path / "r")
    assert answer.code in (1, 2) and said in answer.err and not (tmp_path / "r" / "run.json").exists()


@pytest.mark.parametrize(("kind", "said"), [
    ("raises", "AttributeError: module 'os' has no attribute 'no_such_thing'"), ("syntax", "SyntaxError"),
    ("missing", "No module named 'no_such_module_anywhere'"), ("taken", "there is a model 'vit_s16' already")])
def test_a_plugin_that_fails_is_named(tmp_path: Path, kind: str, said: str) -> None:
    file = tmp_path / f"{kind}.py"
    file.write_text(BAD[kind])
    answer = vitrail("list", "--plugin", file)
    assert answer.code == 1 and not answer.out and len(answer.err.splitlines()) == 1
    assert f"{file}: this plugin failed while it was imported" in answer.err and said in answer.err
    assert "--debug" in answer.err


def test_the_exit_of_a_plugin_is_the_commands(tmp_path: Path) -> None:
    file = tmp_path / "leaves.py"
    file.write_text(BAD["leaves"])
    assert vitrail("list", "--plugin", file).code == 7


@pytest.mark.parametrize(("words", "code", "said"), [
    (["list", "--plugin"], 2, "--plugin needs a value"), (["list", "--plugin="], 2, "--plugin needs a value"),
    (["--plugin", "--json", "list"], 2, "--plugin needs a value"),
    (["list", "--plugin", "nowhere.py"], 1, "'nowhere.py'"),
    (["list", "--plugin", "no_such_module"], 1, "./no_such_module.py"),
    (["list", "--plugin", "mien.py"], 1, "'mine.py'"), (["list", "--plugin", "./mine.txt"], 1, "ends in .py"),
    (["--plugin", "mine.py", "lst"], 2, "'list'")])
def test_a_plugin_named_wrongly(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    for name in ("mine.py", "mine.txt"):
        (tmp_path / name).write_text("")
    answer = vitrail(*words, cwd=tmp_path)
    assert answer.code == code and said in answer.err and not answer.out


def test_a_plugin_is_imported_once_and_takes_nobodys_place(tmp_path: Path) -> None:
    """A file called random.py does not become the module `random`, and a second mention does not run it again."""
    (tmp_path / "random.py").write_text("print('imported')\n")
    answer = vitrail("--plugin", tmp_path / "random.py", "list", "vit_ti16", "--plugin", tmp_path / "random.py")
    assert answer.code == 0 and answer.out.count("imported") == 1 and "vit_ti16" in answer.out
