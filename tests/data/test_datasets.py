"""Folders, tables, digits, tar shards and `datasets`: what they hold, in what order, and what is said of the rest."""
import io
import os
import socket
import tarfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
from PIL import Image

from vitrail.core.errors import DataError, SettingsError, VitrailError
from vitrail.data.open import open_dataset, take_split
from vitrail.data.dataset import Dataset, Subset, natural, printable
from vitrail.data.images import ImageDataset


def png(colour: tuple[int, int, int] = (1, 2, 3), size: tuple[int, int] = (6, 5)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def grow(root: Path, *files: str) -> Path:
    """Files below root, each a picture of its own colour."""
    for n, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(png((n % 256, n // 256, 7)))
    return root


def keys(source: ImageDataset) -> list[str]:
    return [source.key(i) for i in range(len(source))]


def labels(source: ImageDataset) -> list[str]:
    return [source.classes[source.targets(i)["class"]] for i in range(len(source))]


def test_digits() -> None:
    digits = open_dataset("digits")
    assert isinstance(digits, Dataset)
    assert len(digits) == 1797
    assert digits.classes == tuple("0123456789")
    assert digits.image(0).shape == (3, 8, 8)
    assert digits.image(0).max() == 239                      # its darkest stroke is 15 of 16: 15 * 255 / 16
    assert [digits.targets(i)["class"] for i in range(12)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    root = grow(tmp_path, "10/a.png", "9/10.png", "9/9.PNG", "Bird/x.png")
    source = open_dataset(root)
    assert source.classes == ("9", "10", "Bird")            # natural order, not "10" before "9"
    assert keys(source) == ["9/9.PNG", "9/10.png", "10/a.png", "Bird/x.png"]
    assert labels(source) == ["9", "9", "10", "Bird"]
    assert source.image(2)[:, 0, 0].tolist() == [0, 0, 7]
    assert source.skipped == ()


def test_classes_are_named_by_their_path(tmp_path: Path) -> None:
    root = grow(tmp_path, "x/cat/1.png", "y/cat/1.png", "x/dog/1.png")
    assert open_dataset(root).classes == ("x/cat", "x/dog", "y/cat")
    assert open_dataset(root, class_depth=1).classes == ("x", "y")


def test_a_class_within_a_class_is_a_question(tmp_path: Path) -> None:
    root = grow(tmp_path, "cat/1.png", "cat/extra/2.png", "dog/1.png")
    with pytest.raises(DataError, match="'cat' holds images.*class_depth.*1 makes it one"):
        open_dataset(root)
    assert labels(open_dataset(root, class_depth=1)) == ["cat", "cat", "dog"]


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "valid"), ("training", "validation"), ("train", "test")])
def test_train_and_val_folders_are_parts(tmp_path: Path, names: tuple[str, str]) -> None:
    train, held = names
    root = grow(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{held}/a/2.png")
    source = open_dataset(root)
    other = "test" if held == "test" else "val"
    assert source.classes == ("a", "b")
    assert {p: [source.key(i) for i in m] for p, m in source.splits.items()} == {
        "train": [f"{train}/a/1.png", f"{train}/b/1.png"], other: [f"{held}/a/2.png"]}
    assert keys(take_split(source, held)) == [f"{held}/a/2.png"]
    assert keys(open_dataset(root, split="train")) == [f"{train}/a/1.png", f"{train}/b/1.png"]


def test_classes_called_train_and_test_are_classes(tmp_path: Path) -> None:
    folder = grow(tmp_path, "train/1.png", "test/1.png", "plane/1.png")
    assert open_dataset(folder).classes == ("plane", "test", "train")


def test_two_folders_for_one_part(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="both the val split"):
        open_dataset(grow(tmp_path, "train/a/1.png", "val/a/1.png", "valid/a/1.png"))


def test_parts_are_asked_for_by_their_names(tmp_path: Path) -> None:
    source = open_dataset(grow(tmp_path, "a/1.png", "b/1.png"))
    with pytest.raises(SettingsError, match="Did you mean 'val'"):
        take_split(source, "vale")
    with pytest.raises(DataError, match="not divided"):
        take_split(source, "val")


def test_what_is_not_an_image_is_listed(tmp_path: Path) -> None:
    root = grow(tmp_path, "a/1.png", "b/1.png")
    for name in ("a/notes.txt", "b/list.TXT", "b/README", "a/._1.png", ".ipynb_checkpoints/1.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    found = {s.key: (s.why, s.count) for s in open_dataset(root).skipped}
    assert found["*.txt"] == ("the ending '.txt' is not one of an image", 2)
    assert found["*"] == ("a name without an ending", 1)
    assert found["a/._1.png"] == found[".ipynb_checkpoints"] == ("a hidden name", 1)


@pytest.mark.skipif(os.name == "nt", reason="POSIX file kinds")
def test_loops_pipes_sockets_and_dangling_links(tmp_path: Path) -> None:
    root = grow(tmp_path / "data", "a/1.png", "b/1.png")
    elsewhere = grow(tmp_path / "elsewhere", "2.png", "sub/3.png")
    (root / "a/up").symlink_to(root)
    (root / "a/out").symlink_to("/")                        # above the root: must not walk the whole machine
    (root / "b/self").symlink_to("self")
    os.mkfifo(root / "b/pipe.png")
    address = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(root / "b")                                    # an address has about 100 characters at most
    try:
        address.bind("s.png")
    finally:
        os.chdir(here)
        address.close()
    with pytest.raises(DataError, match="b/self.*leads nowhere.*--on-error skip"):
        open_dataset(root)
    source = open_dataset(root, on_error="skip")
    assert keys(source) == ["a/1.png", "b/1.png"]
    why = {s.key: s.why for s in source.skipped}
    assert "read already" in why["a/up"]
    assert "read already" in why["a/out"]
    assert why["b/self"] == "a link that leads nowhere"
    assert (why["b/pipe.png"], why["b/s.png"]) == ("a named pipe", "a socket")
    (root / "b/self").unlink()
    (root / "c").symlink_to(elsewhere / "sub")
    assert open_dataset(root).classes == ("a", "b", "c")


def test_a_link_never_hides_the_folder_it_points_to(tmp_path: Path) -> None:
    root = grow(tmp_path, "zebra/1.png", "b/1.png")
    (root / "alias").symlink_to(root / "zebra")
    source = open_dataset(root)
    assert source.classes == ("b", "zebra")
    assert [s.key for s in source.skipped] == ["alias"]


def test_names_that_only_look_different(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NFC and NFD"):
        open_dataset(grow(tmp_path / "1", "caf\u00e9/1.png", "cafe\u0301/1.png"))
    with pytest.raises(DataError, match="upper and lower case"):
        open_dataset(grow(tmp_path / "2", "Cat/1.png", "cat/1.png"))
    assert open_dataset(grow(tmp_path / "3", "cafe\u0301/1.png", "b/1.png")).classes == ("b", "caf\u00e9")


def test_an_empty_class_folder(tmp_path: Path) -> None:
    root = grow(tmp_path, "a/1.png", "b/1.png", "c/deep/1.png")
    (root / "empty").mkdir()
    (root / "other").mkdir()
    (root / "other/x.txt").write_text("x")
    for how in ("stop", "skip"):
        with pytest.raises(DataError, match="empty: this class folder holds no image.*1 more"):
            open_dataset(root, on_error=how)
    assert open_dataset(root, classes=("a", "b", "c/deep", "empty")).classes == ("a", "b", "c/deep", "empty")


def test_an_empty_class_folder_in_val_is_no_matter(tmp_path: Path) -> None:
    root = grow(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    (root / "val/b").mkdir()
    (root / "annotations").mkdir()
    assert open_dataset(root).classes == ("a", "b")


def test_images_outside_every_class(tmp_path: Path) -> None:
    root = grow(tmp_path, "1.png", "2.png")
    with pytest.raises(DataError, match="2 images lie directly in the folder"):
        open_dataset(root)
    grow(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(DataError, match="1.png: the image lies outside every class folder .and 1 more"):
        open_dataset(root)
    assert len(open_dataset(root, on_error="skip")) == 2


def test_names_that_are_not_text(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    try:
        os.mkdir(raw)
    except OSError:
        pytest.skip("this file system takes text names only")
    with open(os.path.join(raw, b"\xff.png"), "wb") as file:
        file.write(png())
    grow(tmp_path, "b/1.png")
    source = open_dataset(tmp_path)
    assert source.classes == ("b", "caf\\xe9")
    assert "\\xff.png" in source.key(1)
    assert source.image(1).shape == (3, 5, 6)
    " ".join([*source.classes, *keys(source), source.fingerprint()]).encode()


def test_the_labels_of_a_model_decide(tmp_path: Path) -> None:
    root = grow(tmp_path, "cat/1.png", "dog/1.png")
    source = open_dataset(root, classes=("dog", "bird", "cat"))
    assert labels(source) == ["cat", "dog"]
    assert [source.targets(i)["class"] for i in range(2)] == [2, 0]
    with pytest.raises(DataError, match="'dog' is not one of the 2 classes.*Did you mean 'dogs'"):
        open_dataset(root, classes=("dogs", "cat"))


def test_on_error(tmp_path: Path) -> None:
    root = grow(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    (root / "a/2.png").write_bytes(b"no image")
    stop = open_dataset(root)
    with pytest.raises(DataError, match=r"^a/2\.png: this is not an image.*--on-error skip"):
        stop.image(1)
    before = sorted(p.as_posix() for p in root.rglob("*"))
    skip = open_dataset(root, on_error="skip")
    assert keys(skip) == ["a/1.png", "b/1.png"]
    assert [(s.key, s.error) for s in skip.skipped] == [("a/2.png", True)]
    assert sorted(p.as_posix() for p in root.rglob("*")) == before
    (root / "b/1.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image of the class 'b' can be read; b/1.png: the file is empty"):
        open_dataset(root, on_error="skip")
    with pytest.raises(SettingsError, match="Did you mean 'skip'"):
        open_dataset(root, on_error="skp")


def test_skipping_decodes_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.data import images as module
    seen: list[str] = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda *a, **k: (seen.append(k["name"]), real(*a, **k))[1])
    open_dataset(grow(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(20))), on_error="skip")
    assert sorted(seen) == sorted(f"{c}/{i}.png" for c in "ab" for i in range(20))


def test_fingerprint_is_of_contents_not_of_place_or_date(tmp_path: Path) -> None:
    one = grow(tmp_path / "one", "a/1.png", "b/1.png", "b/2.png")
    two = grow(tmp_path / "two", "a/1.png", "b/1.png", "b/2.png")
    os.utime(two / "a/1.png", (1, 1))
    first = open_dataset(one).fingerprint()
    assert open_dataset(two).fingerprint() == first
    assert Subset(open_dataset(one), [0, 1]).fingerprint() != first
    (two / "b/2.png").write_bytes(png((200, 200, 200)))
    changed = open_dataset(two).fingerprint()
    assert changed != first
    os.rename(one / "b", one / "c")
    assert open_dataset(one).fingerprint() not in (first, changed)


def test_a_table(tmp_path: Path) -> None:
    grow(tmp_path, "one.png", "sub/two, final.png", "three.png")
    text = ("\ufeffid,Label,path\r\n7,dog,one.png\r\n8,\"cat, small\",\"sub/two, final.png\"\r\n"
            f"9,dog,{tmp_path / 'three.png'}\r\n\r\n")
    (tmp_path / "list.csv").write_text(text, encoding="utf-8", newline="")
    source = open_dataset(tmp_path / "list.csv")
    assert source.classes == ("cat, small", "dog")
    assert keys(source) == ["sub/two, final.png", str(tmp_path / "three.png"), "one.png"]
    assert source.image(2)[:, 0, 0].tolist() == [0, 0, 7]


@pytest.mark.parametrize(("name", "text"), [
    ("headless.csv", "one.png,a\ntwo.png,b\n"), ("odd.csv", "picture,kind\none.png,a\ntwo.png,b\n"),
    ("tabs.tsv", "path\tlabel\none.png\ta\ntwo.png\tb\n"), ("semicolons.csv", "path;label\none.png;a\ntwo.png;b\n")])
def test_forms_of_tables(tmp_path: Path, name: str, text: str) -> None:
    grow(tmp_path, "one.png", "two.png")
    (tmp_path / name).write_text(text)
    source = open_dataset(tmp_path / name)
    assert list(zip(keys(source), labels(source), strict=True)) == [("one.png", "a"), ("two.png", "b")]


def test_a_table_in_utf16_and_with_a_split(tmp_path: Path) -> None:
    grow(tmp_path, "one.png", "two.png", "three.png")
    text = "path,label,split\none.png,é,train\ntwo.png,é,validation\nthree.png,é,Test\n"
    (tmp_path / "t.csv").write_text(text, encoding="utf-16")
    source = open_dataset(tmp_path / "t.csv")
    assert source.classes == ("é",)
    assert {p: [source.key(i) for i in m] for p, m in source.splits.items()} == {
        "train": ["one.png"], "val": ["two.png"], "test": ["three.png"]}


@pytest.mark.parametrize(("row", "why"), [
    ("gone.png,a", "row 3: gone.png: there is no such file"), ("two.png,", "row 3: the label of 'two.png' is empty"),
    ("two.png, ", "row 3: the label of"), (",a", "row 3: the path is empty"), ("two.png,a,b", "row 3: 3 cells"),
    ("one.png,b", "row 3: 'one.png' is already in row 2, there as 'a', here as 'b'"),
    ("./one.png,a", "row 3: './one.png' is already in row 2, with the same label"), (".,a", "row 3: .: this is not a"),
    ('"two.png","a\nb"', "row 4: a control character")])
def test_bad_rows_are_named_or_skipped(tmp_path: Path, row: str, why: str) -> None:
    grow(tmp_path, "one.png", "two.png", "three.png")
    (tmp_path / "t.csv").write_text(f"path,label\none.png,a\n{row}\nthree.png,b\n")
    with pytest.raises(DataError, match="--on-error skip") as caught:
        open_dataset(tmp_path / "t.csv")
    assert why in str(caught.value)
    source = open_dataset(tmp_path / "t.csv", on_error="skip")
    assert keys(source) == ["one.png", "three.png"]
    assert [s.key for s in source.skipped] == [why.split(":")[0]]


@pytest.mark.parametrize(("raw", "why"), [
    (b"", "empty"), (b"\n\n", "empty"), (b"path,label\n", "no rows"), (b"path\none.png\n", "one column"),
    (b"path,label\none.png,caf\xe9\n", "row 2: the text is not UTF-8"), (b"path,label\none.png,a\0\n", "row 2: a zero"),
    (b'path,label\n"one.png,a\n', "row"), (b"path,label,label\none.png,a,b\n", "more than one column"),
    (b"path,label,split\none.png,a,holdout\n", "row 2: the split is 'holdout'")])
def test_bad_tables(tmp_path: Path, raw: bytes, why: str) -> None:
    grow(tmp_path, "one.png")
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(DataError, match=why):
        open_dataset(tmp_path / "t.csv")


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_shards(tmp_path: Path) -> None:
    for n in range(12):
        shard(tmp_path / f"s-{n:02d}.tar", {"a.png": png((n, 0, 0)), "a.cls": b"dog\n", "d/b.jpg": png((n, 1, 0)),
                                            "d/b.json": b'{"label": "cat"}', "d/b.mask.png": b"another field"})
    every = open_dataset(f"wds:{tmp_path}")
    assert every.classes == ("cat", "dog")
    assert len(every) == 24
    assert every.image(3)[:, 0, 0].tolist() == [1, 1, 0]
    assert (every.key(3), labels(every)[3]) == ("s-01.tar:d/b", "cat")
    some = open_dataset(f"wds:{tmp_path}/s-{{09..11}}.tar")
    assert [k.split(":")[0] for k in keys(some)][::2] == ["s-09.tar", "s-10.tar", "s-11.tar"]
    assert len(open_dataset(f"wds:{tmp_path}/s-0*.tar")) == 20
    assert len(open_dataset(tmp_path / "s-00.tar")) == 2
    assert len(list(tmp_path.iterdir())) == 12


def test_shards_written_by_webdataset(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "a.tar")) as sink:
        for n in range(3):
            sink.write({"__key__": f"k{n}", "png": png((n, 0, 0)), "cls": n})
    source = open_dataset(tmp_path / "a.tar")
    assert source.classes == ("0", "1", "2")
    assert [source.image(i)[0, 0, 0].item() for i in range(3)] == [0, 1, 2]
    named = open_dataset(tmp_path / "a.tar", classes=("zero", "one", "two", "three"))
    assert labels(named) == ["zero", "one", "two"]


def test_broken_samples_of_a_shard(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"a.png": png(), "a.cls": b"x", "lonely.png": png(), "bare.cls": b"x",
                                      "bad.png": b"no", "bad.cls": b"x", "c.png": png(), "c.json": b"[1]"})
    with pytest.raises(DataError, match="a.tar:lonely: no label: .* 2 more"):
        open_dataset(path)
    source = open_dataset(path, on_error="skip")
    assert keys(source) == ["a.tar:a"]
    assert sorted(s.key for s in source.skipped) == ["a.tar:bad", "a.tar:bare", "a.tar:c", "a.tar:lonely"]


def test_damaged_archives(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", {f"{n}.{e}": d for n in range(3) for e, d in (("png", png()), ("cls", b"x"))})
    raw = whole.read_bytes()
    cases = {"cut": raw[:3000], "half header": raw[:1024 + 100], "no end": raw[:6 * 1024], "empty": b"",
             "noise": b"\x07" * 3000, "header": raw[:1024] + b"\xff" * 512 + raw[1536:]}
    for name, data in cases.items():
        (tmp_path / "b.tar").write_bytes(data)
        with pytest.raises(DataError, match=r"b\.tar"):
            open_dataset(tmp_path / "b.tar")
        assert name
    with tarfile.open(tmp_path / "b.tar", "w:gz") as tar:
        tar.add(whole, "x.png")
    with pytest.raises(DataError, match="compressed .gzip"):
        open_dataset(tmp_path / "b.tar")


def test_hugging_face_sets_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images = [{"bytes": png((n, 0, 0)), "path": None} for n in range(6)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])})
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1, 0, -1]}, features=features)
    datasets.disable_progress_bars()
    folder = tmp_path / "saved"
    datasets.DatasetDict(train=table, validation=table.select(range(4))).save_to_disk(str(folder))
    with pytest.raises(DataError, match="train/000005: its label is -1"):
        open_dataset(f"hf:{folder}")
    source = open_dataset(f"hf:{folder}", on_error="skip")
    assert source.classes == ("zebra", "ant")               # the set's own order
    assert {p: len(m) for p, m in source.splits.items()} == {"train": 5, "val": 4}
    assert (source.key(8), source.classes[source.targets(8)["class"]]) == ("validation/000003", "ant")
    assert ForkingPickler.loads(ForkingPickler.dumps(source)).image(8)[:, 0, 0].tolist() == [3, 0, 0]
    (tmp_path / "p").mkdir()
    table.select(range(4)).to_parquet(str(tmp_path / "p/train-00000-of-00001.parquet"))
    again = open_dataset(f"hf:{tmp_path / 'p'}")
    assert (len(again), set(again.splits)) == (4, {"train"})
    assert open_dataset(tmp_path / "p/train-00000-of-00001.parquet").image(2)[0, 0, 0] == 2
    for bad in ("hf:", f"hf:{tmp_path}/none.parquet", f"hf:{tmp_path / 'cache'}"):
        with pytest.raises(VitrailError):
            open_dataset(bad)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("x")
    for text, why in ((tmp_path / "gone", "no such folder or file"), (tmp_path / "letter.txt", "none of them"),
                      ("", "no name"),
                      ("digitz", "Did you mean 'digits'"), ("wds:/nowhere-*.tar", "no tar file"), ("\0", "no name"),
                      (tmp_path, "no image in this folder"), ("x" * 5000, "name")):
        with pytest.raises(DataError, match=why):
            open_dataset(text)


def test_natural_order_and_printable_names() -> None:
    assert sorted(["b", "a10", "A2", "a", "a1b", "a1", "007", "7"], key=natural) == [
        "007", "7", "a", "a1", "a1b", "A2", "a10", "b"]
    assert printable("a\nb\u202ec\udcff") == "a\\u000ab\\u202ec\\xff"
    sorted([str(n) * 5000 for n in range(3)], key=natural)


def test_sources_travel_to_workers(tmp_path: Path) -> None:
    source = ForkingPickler.loads(ForkingPickler.dumps(Subset(open_dataset(grow(tmp_path, "a/1.png", "b/1.png")), [1])))
    assert source.key(0) == "b/1.png"
    assert source.image(0).shape == (3, 5, 6)
