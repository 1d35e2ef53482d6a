"""vitrail data check."""
from pathlib import Path

from PIL import Image

from tests.cli.conftest import Ask, draw


def test_a_sound_folder(ask: Ask, photos: Path) -> None:
    found = ask("data", "check", photos)
    assert found.code == 0
    assert all(part in found.out for part in ("40 images of 2 classes", "dark", "light", "no faults"))
    report = ask("data", "check", photos, "--json")
    assert report.code == 0 and report.json["ok"] and report.json["images"] == 40
    assert [c["name"] for c in report.json["classes"]] == ["dark", "light"]


def test_what_is_wrong_is_listed_and_is_exit_code_1(ask: Ask, tmp_path: Path) -> None:
    folder = draw(tmp_path / "p", count=3)
    (folder / "dark" / "bad.png").write_bytes(b"no picture")
    found = ask("data", "check", folder)
    assert found.code == 1 and "FAULTS" in found.out and "bad.png" in found.out
    report = ask("data", "check", folder, "--json")
    assert report.code == 1 and not report.json["ok"] and any("bad.png" in f for f in report.json["faults"])


def test_the_sheet_is_a_picture_and_replaces_nothing(ask: Ask, photos: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert ask("data", "check", photos, "--sheet", sheet).code == 0
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 200
    before = sheet.read_bytes()
    again = ask("data", "check", photos, "--sheet", sheet)
    assert again.code == 1 and "exists already" in again.err and sheet.read_bytes() == before
    assert ask("data", "check", photos, "--sheet", sheet, "--overwrite").code == 0


def test_what_is_no_data_is_one_line(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "empty", tmp_path / "note.txt", "digitz", ""):
        found = ask("data", "check", path)
        assert found.code == 1 and not found.out and len(found.err.splitlines()) == 1
        report = ask("data", "check", path, "--json")
        assert report.code == 1 and report.json["faults"] and not report.json["ok"]
