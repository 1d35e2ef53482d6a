"""A folder as the guide's reader has it: photos of two classes, a table of them, a new photo, and a finished run."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.cli.main import main

TEST_ALL = bool(os.environ.get("VITRAIL_TEST_ALL"))         # `make test-all` sets it
heavy = pytest.mark.skipif(not TEST_ALL, reason="takes a minute: make test-all runs it")
TINY = ["--model", "deit_ti16", "--set", "depth=2", "dim=32", "heads=2", "patch=8", "--size", "32", "--batch", "8",
        "--epochs", "6", "--lr", "3e-3", "--threads", "1"]


def photo(rng: np.random.Generator, bright: bool) -> Image.Image:
    """Two kinds that a tiny model can tell apart: bright pictures with stripes, and dark ones."""
    pixels = rng.integers(120 if bright else 0, 220 if bright else 100, (48, 64, 3), dtype=np.uint8)
    if bright:
        pixels[::6] = 255
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder, made once; tests work in copies of it."""
    folder = tmp_path_factory.mktemp("guide")
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for n in range(24):
            photo(rng, name == "cat").save(folder / "photos" / name / f"{n}.jpg")
            rows.append(f"photos/{name}/{n}.jpg,{name},{'train' if n < 18 else 'val'}")
    (folder / "photos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name in ("new.jpg", "cat.jpg", "dog.jpg"):
        photo(rng, name != "dog.jpg").save(folder / name)
    (folder / "mine.txt").write_text("The old cat sees two red birds in the garden. " * 40, encoding="utf-8")
    assert main(["train", *TINY, "--data", str(folder / "photos"), "--out", str(folder / "runs" / "photos")]) == 0
    if not TEST_ALL:                # the run that the first page trains, where there is no time to train it
        shutil.copytree(folder / "runs" / "photos", folder / "runs" / "first")
    return folder


@pytest.fixture
def desk(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the reader's folder, as the working directory."""
    folder = tmp_path / "desk"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder
