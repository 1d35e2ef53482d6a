"""Hostile folder trees, tables and tar shards: a data set that can be read to its end, or a VitrailError."""
import io
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from vitrail.core.errors import DataError, VitrailError
from vitrail.data.check import checked
from vitrail.data.open import open_dataset
from vitrail.data.sheet import sheet
from vitrail.data.split import split

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="POSIX file kinds"),
              pytest.mark.filterwarnings("ignore::UserWarning")]
NAMES = (
    "cat", "Cat", "DOG", "dog", "1", "2", "10", "caf\u00e9", "cafe\u0301", "猫", " ", "a b", "-rf", "train", "val",
    "valid", "test", "..x", ".hidden", "$(id)", "`id`", "'", '"', "a,b", "%00", "\\", "\n", "\x1b[31m", "\u202e",
    "x" * 200, "__pycache__", "con", "<b>", "[/red]", "{}", "%s", "\ufeff", "İ", "ß", "ſ", "Ａ", "\udcff", "🐈",
    "0" * 60, "9" * 60)
PICTURE = io.BytesIO()
Image.new("RGB", (4, 3), (200, 10, 10)).save(PICTURE, "PNG")
PNG = PICTURE.getvalue()
CONTENTS = (PNG, PNG, PNG, PNG[:40], b"", b"text", bytes(500))


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            entry = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (entry.st_mode, entry.st_size, entry.st_mtime_ns)
    return found


def survives(text: str | Path, root: Path, *, fewer: int = 0) -> str:
    """Opens in every way, reads to the end, checks, draws; says how it ended. Nothing below root may change."""
    before = snapshot(root)
    ended = ""
    for how in ("stop", "skip"):
        try:
            source = open_dataset(text, on_error=how, threads=2)
            assert len(source) > 0
            assert len({source.key(i) for i in range(len(source))}) == len(source)
            for index in range(len(source)):
                assert 0 <= source.targets(index)["class"] < len(source.classes)
                try:
                    assert source.image(index).shape[0] == 3
                except DataError:
                    assert how == "stop"                    # skip has left out what cannot be read
            assert len(source.fingerprint()) == 64
            " ".join([*source.classes, *(s.key for s in source.skipped)]).encode("utf-8")
            try:
                sides = split(source)
                assert len(sides.train) + len(sides.val) <= len(source)
            except VitrailError:
                pass
            ended = "read"
        except VitrailError as e:
            str(e).encode("utf-8")
            ended = ended or "refused"
    report, whole = checked(text)
    if whole is not None and len(whole) < 200:
        sheet(whole, per_class=1, classes=10)
    assert report.ok or report.faults
    assert snapshot(root) == before
    return ended


def put(root: Path, *files: str, data: bytes = PNG) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)


def two_classes(root: Path) -> None:
    put(root, "a/1.png", "b/1.png")


def linked(root: Path, name: str, target: str | Path) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(target)


# What is done to a folder, and how opening it must end.
TREES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda r: None, "refused"),
    "two good classes": (two_classes, "read"),
    "an empty class": (lambda r: (two_classes(r), (r / "c").mkdir()), "refused"),
    "empty all the way down": (lambda r: (r / "a/b/c/d").mkdir(parents=True), "refused"),
    "images without classes": (lambda r: put(r, "1.png", "2.png"), "refused"),
    "text only": (lambda r: put(r, "a/1.txt", "b/2.txt"), "refused"),
    "damaged images only": (lambda r: put(r, "a/1.png", "b/2.png", data=b"x"), "read"),
    "one class of damaged images": (lambda r: (two_classes(r), put(r, "c/1.png", data=b"x")), "read"),
    "hidden only": (lambda r: put(r, ".a/1.png", "b/.1.png"), "refused"),
    "a loop": (lambda r: (two_classes(r), linked(r, "a/loop", r)), "read"),
    "a loop of two": (lambda r: (two_classes(r), linked(r, "a/x", r / "b"), linked(r, "b/y", r / "a")), "read"),
    "a link to itself": (lambda r: (two_classes(r), linked(r, "a/me.png", "me.png")), "read"),
    "links in a ring": (
        lambda r: (two_classes(r), linked(r, "a/p.png", "q.png"), linked(r, "a/q.png", "p.png")), "read"),
    "a dangling link": (lambda r: (two_classes(r), linked(r, "a/gone.png", "nowhere.png")), "read"),
    "a link to the root of all": (lambda r: (two_classes(r), linked(r, "a/up", "/")), "read"),
    "a class that is a link upwards": (lambda r: (two_classes(r), linked(r, "c", "..")), "read"),
    "a link to devices": (lambda r: (two_classes(r), linked(r, "a/zero.png", "/dev/zero")), "read"),
    "a link to a secret": (lambda r: (two_classes(r), linked(r, "a/passwd.png", "/etc/passwd")), "read"),
    "a pipe": (lambda r: (two_classes(r), os.mkfifo(r / "a/pipe.png")), "read"),
    "a folder called like an image": (lambda r: (two_classes(r), put(r, "c.png/1.png")), "read"),
    "an image called like a class": (lambda r: (two_classes(r), put(r, "c")), "read"),
    "a class in a class": (lambda r: put(r, "a/1.png", "a/b/1.png"), "refused"),
    "forty levels": (lambda r: put(r, "/".join("d" * 40) + "/1.png", "b/1.png"), "read"),
    "case": (lambda r: put(r, "cat/1.png", "CAT/1.png"), "refused"),
    "sharp s": (lambda r: put(r, "straße/1.png", "STRASSE/1.png"), "refused"),
    "composition": (lambda r: put(r, "é/1.png", "e\u0301/1.png"), "refused"),
    "composition below": (lambda r: put(r, "x/é/1.png", "x/e\u0301/1.png"), "refused"),
    "case below": (lambda r: put(r, "x/a/1.png", "X/a/1.png"), "refused"),
    "train alone": (lambda r: put(r, "train/a/1.png", "train/b/1.png"), "read"),
    "train and val": (lambda r: put(r, "train/a/1.png", "val/a/1.png"), "read"),
    "val and valid": (lambda r: put(r, "val/a/1.png", "valid/a/1.png"), "refused"),
    "train with images of its own": (lambda r: put(r, "train/1.png", "val/a/1.png"), "read"),
    "train in both cases": (lambda r: put(r, "train/a/1.png", "Train/a/1.png"), "refused"),
    "a key of two folders": (lambda r: put(r, "a/b/1.png", "a\\b/1.png"), "read"),
}


@pytest.mark.parametrize("name", sorted(TREES))
def test_trees(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    grow, ending = TREES[name]
    grow(root)
    assert survives(root, root) == ending


@pytest.mark.parametrize("seed", range(40))
def test_trees_at_random(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    root = tmp_path / "data"
    root.mkdir()
    folders = [root]
    for _ in range(dice.randrange(1, 8)):
        folder = dice.choice(folders) / dice.choice(NAMES)
        try:
            folder.mkdir(exist_ok=True)
            folders.append(folder)
        except (OSError, UnicodeError):                     # not every file system takes every name
            continue
    for _ in range(dice.randrange(25)):
        place = dice.choice(folders[1:] or folders) / (dice.choice(NAMES)[:180] + dice.choice((".png", ".JPG",
            ".txt", "")))
        try:
            kind = dice.randrange(12)
            if kind == 0:
                os.mkfifo(place)
            elif kind == 1:
                place.symlink_to(dice.choice([*folders, Path("/"), Path("..") / "x", Path("/dev/null"), place]))
            else:
                place.write_bytes(dice.choice(CONTENTS))
        except (OSError, UnicodeError):
            continue
    survives(root, root)


ROWS = (
    "one.png,a", "two.png,b", "two.png,B", "sub/3.png,c", "gone.png,a", ",a", "one.png,", ",", "", "one.png",
    "a,b,c,d", '"one.png","x', '"two.png","a ""quoted"" word"', "../outside.png,a", "/etc/passwd,a", "~root/x.png,a",
    "one.png,\u202e", "path,label", "\x1b[31m,a", "one.png,a\r", "=cmd|' /C calc'!A0,a", "sub,a", "pipe.png,a",
    "loop.png,a", "one.png;a", "one.png\ta", "x" * 5000 + ",a", "one.png," + "y" * 5000, "one.png,é",
    "one.png,e\u0301", "\ufeffone.png,a", "./one.png,b", "one.png/,a", "one.png\u2028,a", "nul\0,a")
HEADS = (
    "path,label", "label,path", "path,label,split", "file;class", "a,b", "path,label,label", "\ufeffpath,label",
    "path\tlabel", "", "PATH,Label", "label", "image,class,path", "path,,label")


def table_at(root: Path) -> Path:
    put(root, "one.png", "two.png", "sub/3.png")
    os.mkfifo(root / "pipe.png")
    (root / "loop.png").symlink_to("loop.png")
    return root / "list.csv"


@pytest.mark.parametrize("seed", range(60))
def test_tables_at_random(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    path = table_at(tmp_path)
    lines = [dice.choice(HEADS), *(dice.choice(ROWS) for _ in range(dice.randrange(8)))]
    text = dice.choice(("\n", "\r\n", "\r", "\n\n")).join(lines)
    raw = text.encode(dice.choice(("utf-8",) * 6 + ("utf-16", "latin-1")), "replace")
    if dice.random() < 0.3:
        at = dice.randrange(len(raw) + 1)
        raw = raw[:at] + dice.choice((b"\xff", b"\0", b'"', b"\n", b",", bytes(50))) + raw[at:]
    path.write_bytes(raw)
    survives(path, tmp_path)


@pytest.mark.parametrize("row", ROWS)
def test_one_bad_row_among_good_ones(tmp_path: Path, row: str) -> None:
    path = table_at(tmp_path)
    put(tmp_path, "good1.png", "good2.png")
    path.write_bytes(f"path,label\ngood1.png,p\n{row}\ngood2.png,q\n".encode())
    survives(path, tmp_path)


def shard(files: Iterator[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in files:
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo,
    bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, data


GOOD = [member("1.png", PNG), member("1.cls", b"a"), member("2.png", PNG), member("2.cls", b"b")]
SHARDS = {
    "outside": [member("../../escape.png", PNG), member("../../escape.cls", b"a"), member("/tmp/abs.png", PNG),
        member("/tmp/abs.cls", b"b")],
    "links": [*GOOD, member("x.png", kind=tarfile.SYMTYPE, target="/etc/passwd"),
        member("y.png", kind=tarfile.LNKTYPE, target="1.png")],
    "devices": [*GOOD, member("z.png", kind=tarfile.CHRTYPE), member("p.png", kind=tarfile.FIFOTYPE)],
    "twice": [*GOOD, member("1.png", PNG)],
    "two images": [*GOOD, member("1.jpg", PNG)],
    "no label": [member("1.png", PNG)],
    "no image": [member("1.cls", b"a")],
    "folders": [member("d", kind=tarfile.DIRTYPE), *GOOD],
    "hidden": [*GOOD, member(".1.png", PNG), member("d/.x", b"")],
    "binary label": [*GOOD, member("3.png", PNG), member("3.cls", b"\xff\xfe")],
    "long label": [*GOOD, member("3.png", PNG), member("3.cls", b"x" * 100_000)],
    "line break": [member("3.png", PNG), member("3.cls", b"a\nb")],
    "deep json": [*GOOD, member("3.png", PNG), member("3.json", b"[" * 60_000)],
    "json list": [member("3.png", PNG), member("3.json", b"[]")],
    "json NaN": [*GOOD, member("3.png", PNG), member("3.json", b'{"label": NaN}')],
    "case": [*GOOD, member("3.png", PNG), member("3.cls", b"A")],
    "huge number": [*GOOD, member("3.png", PNG), member("3.cls", b"9" * 6000)],
    "true": [member("3.png", PNG), member("3.json", b'{"label": true}')],
    "odd names": [member("\x1b[31m\n.png", PNG), member("\x1b[31m\n.cls", b"a"), member("é.png", PNG),
        member("é.cls", b"b")],
    "damaged image": [*GOOD, member("3.png", b"x"), member("3.cls", b"a")],
    "empty name": [*GOOD, member("", b"x")],
}


@pytest.mark.parametrize("name", sorted(SHARDS))
def test_shards(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.tar").write_bytes(shard(iter(SHARDS[name])))
    survives(tmp_path / "s.tar", tmp_path)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_shards(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    raw = bytearray(shard(iter(GOOD)))
    for _ in range(dice.choice((1, 2, 6))):
        at = dice.randrange(min(len(raw), 5000))
        kind = dice.randrange(4)
        if kind == 0:
            raw = raw[:at + 1]
        elif kind == 1:
            raw[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            at = at // 512 * 512 + dice.choice((0, 100, 124, 148, 156, 257, 345))
            raw[at:at + 8] = dice.choice((b"7777777\0", b"\x80" + b"\xff" * 7, b"\xff" * 8, b"-0000001", b"\0" * 8))
        else:
            del raw[at:at + 512]
    (tmp_path / "s.tar").write_bytes(bytes(raw))
    survives(tmp_path / "s.tar", tmp_path)


@pytest.mark.parametrize("text", [
    "", " ", "\0", "/dev/null", "/dev/zero", "~nobody-at-all", "x" * 5000, "hf:", "hf:\0", "hf:a/b/c/d", "hf:../none",
    "wds:", "wds:\0", "wds:{0..99999999}.tar", "wds:{9..1}.tar", "wds:{0..5", "wds:{a..b}.tar", "wds:/dev/zero",
    "wds:[", "Digits", "http://example.org/x.zip", "-", "digits/", "file:///etc", "\udcff",
    "data:image/png;base64,AAAA"])
def test_names_of_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(VitrailError):
        open_dataset(text)


def test_nothing_is_unpacked_or_written_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/s.tar").write_bytes(shard(iter(SHARDS["outside"])))
    survives(tmp_path / "in/s.tar", tmp_path)
    assert not Path("/tmp/abs.png").exists()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "s.tar"]
