"""What the tests of the command line share: a way to ask, a folder of photos, and one tiny trained run."""
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitrail.cli.main import main

TINY = ["--model", "vit_ti16", "--set", "depth=1", "dim=32", "heads=2", "patch=8", "--size", "16", "--batch", "8",
        "--epochs", "2", "--lr", "3e-3", "--randaugment", "0", "--erase", "0", "--crop-scale", "0.9", "--crop", "1.0"]

TINY_TEXT = ["--threads", "1", "--batch", "8", "--epochs", "1", "--sentences", "40", "--set", "dim=16", "hidden=32",
             "heads=2"]
TEXTS = {"translation": ["--model", "transformer_tiny", "--data", "toy"],
         "causal": ["--model", "gpt_tiny", "--data", "page", "--length", "16", "--stride", "150"],
         "masked": ["--model", "bert_tiny", "--data", "page", "--stride", "150"]}


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `vitrail` with these words, in this process."""
    def asked(*words: object) -> Answer:
        capsys.readouterr()
        code = main([str(w) for w in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err and "\x1b" not in said.out
        return Answer(code, said.out, said.err)
    return asked


def draw(folder: Path, count: int = 20) -> Path:
    """Two classes that a tiny model can tell apart: bright pictures and dark ones."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(rng.integers(low, low + 100, (18, 24, 3), dtype=np.uint8)).save(folder / name / f"{n}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("cli") / "photos")


@pytest.fixture(scope="session")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the photos, made by the command itself."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", *TINY, "--data", str(photos), "--out", str(out), "--epochs=6"]) == 2      # given twice
    assert main(["train", *TINY, "--data", str(photos), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def text_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each kind of text model, made by the command itself."""
    folder = tmp_path_factory.mktemp("texts")
    for kind, words in TEXTS.items():
        assert main(["train", *words, "--out", str(folder / kind), *TINY_TEXT]) == 0
    return {kind: folder / kind for kind in TEXTS}
