"""Hostile files of weights: none runs anything, exhausts memory, or ends in another error than CheckpointError."""
import bz2
import gzip
import io
import os
import pickle
import tarfile

import pytest
import torch

from tests.hostile import forge as f
from tests.hostile.weights import FINE, GOOD, NUMPY, PICKLES, RUN, SAFE, ZIPS
from vitrail.core.errors import CheckpointError
from vitrail.core.tensors import read_metadata, read_tensors, write_tensors


def reads(path, **options):
    """The tensors, or None where CheckpointError says no. Anything else that happens is a failure of the test."""
    with f.Peak() as peak, f.WATCH as watch:
        try:
            out = {k: t.clone() for k, t in read_tensors(path, **options).items()}
        except CheckpointError as e:
            assert str(path) in str(e)
            assert len(str(e)) < 2000
            out = None
    assert watch.seen == []
    assert peak.grown < f.ROOM + 2 * (os.path.getsize(path) if os.path.isfile(path) else 0)
    return out


def test_the_forge_makes_good_files_too(tmp_path):
    """Else every refusal below could be for the wrong reason."""
    forms = {"a.pth": f.zipped(GOOD), "b.pth": f.legacy(GOOD), "d.npz": f.npz({"a.npy": f.array()}),
             "c.safetensors": f.safetensors({"a": f.entry()}, bytes(16))}
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        assert torch.equal(reads(tmp_path / name)["a"], torch.zeros(4)), name


def test_the_watch_sees_an_attack(tmp_path, monkeypatch):
    """The canary sings when the same bytes are run: what the other tests look for is there to be found."""
    monkeypatch.chdir(tmp_path)
    with f.WATCH as watch:
        pickle._Unpickler(io.BytesIO(f.pickled(RUN))).load()
        exec("1")
    assert (tmp_path / "ran").exists()
    assert {"os.system", "pickle.find_class", "exec"} <= {event for event, _ in watch.seen}
    with f.Peak() as peak:
        assert len(bytes(150 << 20).replace(b"\0", b"\1")) > f.ROOM
    assert peak.grown > f.ROOM or not os.path.exists("/proc/self/clear_refs")


@pytest.mark.parametrize("form", [f.zipped, f.legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    path.write_bytes(form(f.pickled(PICKLES[name])))
    for inside in ("", "model"):
        assert reads(path, inside=inside) is None or (name in FINE and not inside)
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("name", ZIPS)
def test_containers(tmp_path, name):
    (tmp_path / "x.pth").write_bytes(ZIPS[name]())
    assert reads(tmp_path / "x.pth") is None
    assert os.listdir(tmp_path) == ["x.pth"]


REASONS = {     # where the wrong reason would mean that a defence is not there
    "bomb": "compressed or encrypted", "encrypted": "compressed or encrypted", "overlapping": "claim more bytes",
    "shared too often": "share their data", "two of one name": "two members of one name",
    "long directory": "too many for weights", "two tables": "not one that torch.save wrote", "program": "TorchScript",
    "big-endian": "big-endian", "table of 33 MB": "longer than that of any", "wrong checksum": "damaged",
    "storage too short": "incomplete: 12 bytes", "a second archive behind": "'os.system'",
    "legacy: cut short": "cut short", "legacy: another length": "another length",
    "a plain pickle": "not one that torch.save",
    "legacy: key twice": "does not fit"}


@pytest.mark.parametrize("name", REASONS)
def test_each_defence_answers_for_itself(tmp_path, name):
    (tmp_path / "x.pth").write_bytes(ZIPS[name]())
    with pytest.raises(CheckpointError, match=REASONS[name] or None):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize(("name", "says"), [
    ("system in an entry", "'os.system', which weights have no need of; nothing was run"),
    ("eval", "'builtins.eval'"),
    ("bytearray of 2 GB", "'builtins.bytearray'"),
    ("tensor of 10^12 numbers", "4000000000000 bytes in a storage of 16"),
    ("system by INST", "instruction INST"), ("storage of no kind", "QUInt8Storage"), ("storage not there", "no bytes")])
def test_each_defence_of_pickles_answers_for_itself(tmp_path, name, says):
    (tmp_path / "x.pth").write_bytes(f.zipped(f.pickled(PICKLES[name])))
    with pytest.raises(CheckpointError, match=says):
        read_tensors(tmp_path / "x.pth", inside="model")


@pytest.mark.parametrize("name", SAFE)
def test_safetensors(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFE[name])
    assert reads(path) is None
    try:
        read_metadata(path)
    except CheckpointError as e:
        assert str(path) in str(e)


@pytest.mark.parametrize("name", NUMPY)
def test_numpy(tmp_path, name):
    (tmp_path / "x.npz").write_bytes(NUMPY[name]())
    assert reads(tmp_path / "x.npz") is None


def tar(data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.pth"), io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize(("data", "says"), [
    (b"", "empty"), (b"\x80", ""), (b"PK\3\4", ""), (b"\0" * 5000, ""), (b"\xff" * 5000, ""),
    (b"<!DOCTYPE html><html>Not Found</html>", "web page"), (b"\n  <?xml version='1.0'?>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    (b'{"error": "Repository not found"}', "text"), (b"Entry not found, and so on\n", "text"),
    (gzip.compress(f.zipped(GOOD)), "Unpack"),
    (bz2.compress(f.zipped(GOOD)), "Unpack"), (tar(f.zipped(GOOD)), "Unpack"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), ""), (b"\x89HDF\r\n\x1a\n" + bytes(100), "")])
def test_what_is_something_else(tmp_path, suffix, data, says):
    path = tmp_path / ("x" + suffix)
    path.write_bytes(data)
    assert reads(path) is None
    with pytest.raises(CheckpointError, match=says or None):
        read_tensors(path)


def test_one_kind_under_the_name_of_another(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="looks like safetensors: rename it"):
        read_tensors(tmp_path / "a.pth")
    (tmp_path / "b.safetensors").write_bytes(f.zipped(GOOD))
    with pytest.raises(CheckpointError, match=r"rename it to \.pth"):
        read_tensors(tmp_path / "b.safetensors")


def test_places_that_are_no_files(tmp_path, monkeypatch):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "vit_tiny.pth").write_bytes(f.zipped(GOOD))
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    (tmp_path / "gone.pth").symlink_to("nowhere.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.pth")        # opening it would wait for ever
    for name, says in {"folder.pth": "this is a folder. It holds no", "../" + tmp_path.name: "vit_tiny.pth",
                       "loop.pth": "cannot be read", "gone.pth": "no such file", "zero.pth": "device or a pipe",
                       "pipe.pth": "device or a pipe", "vit_tny.pth": "Did you mean 'vit_tiny.pth'",
                       "vit.txt": "no such file", "vit_tiny.pth/x.pth": "cannot be read",
                       "a" * 300 + ".pth": "cannot be read",
                       "no/such/x.pth": "nor the folder", "nul\0.pth": "ValueError",
                       "\udcff.pth": "no such file"}.items():
        assert reads(tmp_path / name) is None
        with pytest.raises(CheckpointError, match=says):
            read_tensors(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="files of weights end in"):
        read_tensors(tmp_path / "notes.txt")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("pathlib.Path.open", refuse)        # the tests may run as root, who may read all
    with pytest.raises(CheckpointError, match="you may not read this"):
        read_tensors(tmp_path / "vit_tiny.pth")


def test_the_corpus_is_as_large_as_promised():
    assert 2 * len(PICKLES) + len(ZIPS) + len(SAFE) + len(NUMPY) > 200
