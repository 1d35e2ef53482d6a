"""`data check`: the report tells what is there and what is wrong; the sheet shows it."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.core.errors import SettingsError
from vitrail.data.check import check, checked
from vitrail.data.fonts import fitted, runs, width
from vitrail.data.open import open_dataset
from vitrail.data.sheet import CELL, GAP, NAMES, sheet, write_sheet


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Three classes of different size with one fault of each kind."""
    rng = np.random.default_rng(0)
    root = tmp_path / "messy"
    for label, count in (("train/cat", 30), ("train/dog", 3), ("val/cat", 2), ("val/dog", 1)):
        (root / label).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 50 + n, 3), np.uint8)).save(root / label / f"{n}.png")
    (root / "val/dog/copy.png").write_bytes((root / "train/cat/3.png").read_bytes())
    Image.open(root / "train/cat/4.png").save(root / "train/cat/four.bmp")      # the same pixels, another file
    Image.new("L", (20, 90), 7).save(root / "train/dog/blank.jpg")
    (root / "train/dog/bad.jpg").write_bytes(b"not an image")
    (root / "train/dog/notes.txt").write_text("x")
    (root / "train/fox").mkdir()
    return root


def test_the_report(messy: Path) -> None:
    before = sorted(str(p) for p in messy.rglob("*"))
    told: list[tuple[int, int]] = []
    report = check(messy, progress=lambda done, of: told.append((done, of)))
    assert sorted(str(p) for p in messy.rglob("*")) == before
    assert told == [(n, 40) for n in range(1, 41)]
    assert not report.ok
    assert [(c.name, c.images, c.readable, dict(c.splits)) for c in report.classes] == [
        ("cat", 33, 33, {"train": 31, "val": 2}), ("dog", 7, 6, {"train": 4, "val": 2})]
    assert [b.key for b in report.broken] == ["train/dog/bad.jpg"]
    assert {s.key for s in report.skipped} == {"*.txt", "train/fox"}
    assert len(report.faults) == 2
    assert report.kinds == {"PNG RGB": 37, "BMP RGB": 1, "JPEG L": 1}
    assert report.sizes is not None
    assert (report.sizes.smallest, report.sizes.largest) == ((90, 20), (40, 79))
    assert (report.sizes.small, report.sizes.blank) == (1, 1)
    assert {d.keys for d in report.duplicates} == {("train/cat/3.png", "val/dog/copy.png"),
                                                   ("train/cat/4.png", "train/cat/four.bmp")}
    said = "\n".join(report.warnings)
    for word in ("fewer than 10 images: 1 (dog: 6)", "copies of others: 2", "more than one split (held out, yet "
                 "trained on): 1", "more than one class: 1", "below 32 pixels: 1", "one colour throughout: 1"):
        assert word in said
    again = json.loads(json.dumps(report.to_json()))
    assert again["ok"] is False
    assert again["classes"][0]["name"] == "cat"


def test_a_good_set_is_called_good() -> None:
    report = check("digits")
    assert report.ok
    assert (report.images, len(report.classes)) == (1797, 10)
    assert report.duplicates == ()


def test_imbalance_and_missing_parts(tmp_path: Path) -> None:
    for label, count in (("train/a", 25), ("train/b", 2), ("val/a", 1)):
        (tmp_path / label).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (33, 33), (n, count, 0)).save(tmp_path / label / f"{n}.png")
    said = "\n".join(check(tmp_path).warnings)
    assert "13 times" in said
    assert "without an image in the val split: 1 (b)" in said


def test_what_cannot_be_opened_is_a_report_too(tmp_path: Path) -> None:
    report, source = checked(tmp_path / "gone")
    assert (report.ok, source) == (False, None)
    assert "no such folder" in report.faults[0]


def test_the_sheet_shows_every_class_and_every_fault(messy: Path) -> None:
    _, source = checked(messy)
    assert source is not None
    page = sheet(source, per_class=8)
    assert page.size == (NAMES + 8 * (CELL + GAP) + GAP, 34 + 2 * (CELL + GAP) + GAP)
    pixels = np.asarray(page)
    assert (pixels == (190, 40, 40)).all(-1).sum() > 2 * CELL               # the crossed cell of bad.jpg
    names = pixels[34:, :NAMES - GAP]
    assert (names.min((1, 2)) < 100).any()
    assert pixels[:, -GAP:].min() == 255


def test_a_sheet_holds_what_the_data_set_holds() -> None:
    digits = open_dataset("digits")
    page = np.asarray(sheet(digits, per_class=2, classes=3))
    assert page.shape[0] == 34 + 3 * (CELL + GAP) + 24 + GAP
    zeros = {digits.image(i)[0].numpy().tobytes() for i in range(len(digits)) if digits.targets(i)["class"] == 0}
    shown = page[34:34 + CELL:CELL // 8, NAMES:NAMES + CELL:CELL // 8, 0]     # enlarged by whole pixels: 12 x 12 each
    assert np.ascontiguousarray(shown).tobytes() in zeros


@pytest.mark.parametrize("name", [
    "猫", "кошка", "قطة", "हिन्दी", "🐈", "[red]", "<script>", "a\nb", "\u202eevil", "x" * 250, "a b_c-" * 40,
    "\u0301" * 30, "ﷺ" * 60, "\\", "%s", "W" * 120, "i" * 120])
def test_any_name_stays_in_its_column(tmp_path: Path, name: str) -> None:
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system does not take the name")
    Image.new("RGB", (50, 50), (0, 0, 255)).save(tmp_path / name / "1.png")
    pixels = np.asarray(sheet(open_dataset(tmp_path), per_class=1))
    row = pixels[34:34 + CELL]
    assert row[:, NAMES - GAP:NAMES].min() == 255           # nothing runs into the images
    assert row[:70, :NAMES - GAP].min() < 128               # and something is written
    assert row[CELL // 2, NAMES + CELL // 2].tolist() == [0, 0, 255]


def test_text_is_shortened_in_its_middle() -> None:
    short = fitted("beginning " + "x" * 5000 + " end", 13, 150)
    assert short.startswith("beg")
    assert short.endswith("end")
    assert width(short, 13) <= 150
    assert fitted("cat", 13, 150) == "cat"
    assert "".join(piece for _, piece in runs("cat \U000e0fff", 13)) == "cat \\U000e0fff"


def test_a_sheet_writes_over_nothing_but_a_sheet(tmp_path: Path) -> None:
    page = Image.new("RGB", (4, 4))
    assert write_sheet(page, tmp_path / "new/sheet.png").exists()
    write_sheet(page, tmp_path / "new/sheet.png")
    mine = tmp_path / "mine.png"
    page.save(mine)
    before = mine.read_bytes()
    for path, why in ((mine, "not a sample sheet"), (tmp_path / "x.jpg", "does not end in .png"),
                      (mine / "under.png", "cannot be written"), (tmp_path / "new", "does not end")):
        with pytest.raises(SettingsError, match=why):
            write_sheet(page, path)
    assert mine.read_bytes() == before
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["sheet.png"]
