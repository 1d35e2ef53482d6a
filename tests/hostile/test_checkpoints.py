"""Hostile files of weights: none runs anything, exhausts memory, or ends in another error than CheckpointError."""
import bz2
import gzip
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from tests.hostile import forge as f
from tests.hostile.weights import FINE, GOOD, NUMPY, PICKLES, RUN, SAFE, ZIPS
from vitrail.core.errors import CheckpointError
from vitrail.core.seeds import mix
from vitrail.core.tensors import read_metadata, read_tensors, write_tensors

ROOM = 120 << 20        # bytes that reading a small file may take
WATCH = f.Watch()


def reads(path, **options):
    """The tensors, or None where CheckpointError says no. Anything else that happens is a failure of the test."""
    with f.Peak() as peak, WATCH as watch:
        try:
            out = {k: t.clone() for k, t in read_tensors(path, **options).items()}
        except CheckpointError as e:
            assert str(path) in str(e)
            assert len(str(e)) < 2000
            out = None
    assert watch.seen == []
    assert peak.grown < ROOM + 2 * (os.path.getsize(path) if os.path.isfile(path) else 0)
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
    with WATCH as watch:
        pickle._Unpickler(io.BytesIO(f.pickled(RUN))).load()
        exec("1")
    assert (tmp_path / "ran").exists()
    assert {"os.system", "pickle.find_class", "exec"} <= {event for event, _ in watch.seen}
    with f.Peak() as peak:
        assert len(bytes(150 << 20).replace(b"\0", b"\1")) > ROOM
    assert peak.grown > ROOM or not os.path.exists("/proc/self/clear_refs")


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
    (gzip.compress(f.zipped(GOOD)), "Unpack"), (bz2.compress(f.zipped(GOOD)), "Unpack"), (tar(f.zipped(GOOD)), "Unpack"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), ""), (b"\x89HDF\r\n\x1a\n" + bytes(100), "")])
def test_what_is_something_else(tmp_path, suffix, data, says):
    path = tmp_path / ("x" + suffix)
    path.write_bytes(data)
    assert reads(path) is None
    with pytest.raises(CheckpointError, match=says):
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
                       "pipe.pth": "device or a pipe", "vit_tny.pth": "Did you mean 'vit_tiny.pth'", "vit.txt": "no such file",
                       "vit_tiny.pth/x.pth": "cannot be read", "a" * 300 + ".pth": "cannot be read",
                       "no/such/x.pth": "nor the folder", "nul\0.pth": "", "\udcff.pth": "no such file"}.items():
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


SPICE = [b"cos\nsystem\n", RUN, b"R", b"b", b"\x81", b"Q", b"(", b"t", b"}", b"]", b"s", b"u", b"a", b"e", b"q\0", b"h\0", b"0",
         b".", b"\x80\x04", b"\x93", b"\x94", b"\x85", b"N", b"\x8a\x08" + b"\x7f" * 8, b"J\xff\xff\xff\xff", b"X\xff\xff\xff\x7f",
         b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"99999999999999999999", b"-1", b"[0,0]", b'"F64"', b"null", b"{", b"\0" * 8]


def mutate(data, rng, start=0, end=None):
    """A few changes of every kind within a part of the data: flips, cuts, repeats, and things that mean something."""
    head, part, tail = data[:start], bytearray(data[start:end]), data[end:] if end is not None else b""
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at, kind = rng.randrange(len(part) + 1), rng.randrange(6)
        length = rng.choice((1, 1, 2, 8, 40))
        if kind == 0 and at < len(part):
            part[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(part):
            part[at] = rng.randrange(256)
        elif kind == 2:
            del part[at:at + length]
        elif kind == 3:
            part[at:at] = rng.choice(SPICE)
        elif kind == 4:
            part[at:at] = part[rng.randrange(len(part) + 1):][:length]
        else:
            part[at:at + len(s)] = (s := rng.choice(SPICE))
    return head + bytes(part) + tail


def honest(tmp_path):
    """The files that the mutations start from, written by the programs that write such files."""
    state = {"a": torch.ones(2, 3), "b": torch.arange(4).half(), "c": torch.nn.Parameter(torch.zeros(5))[1:], "d": torch.ones(1).int()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "zip.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    write_tensors(tmp_path / "s.safetensors", state, {"note": "x"})
    np.savez(tmp_path / "n.npz", a=np.ones((2, 3), "f4"), b=np.arange(4))
    return {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def rezip(data, rng):
    """The archive with one member mutated, and checksums that fit: what a maker of such files would do."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        target = rng.choice([n for n in old.namelist() if n.endswith((".pkl", ".npy"))])
        for name in old.namelist():
            new.writestr(name, mutate(old.read(name), rng) if name == target else old.read(name))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip.pth", "inside zip.pth", "legacy.pth", "s.safetensors", "header s.safetensors",
                                  "n.npz", "inside n.npz"])
def test_mutations(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "honest").mkdir()
    name = kind.split()[-1]
    data = honest(tmp_path / "honest")[name]
    header = 8 + struct.unpack("<Q", data[:8])[0]
    path, outcomes = tmp_path / name, {"read": 0, "refused": 0}
    options = {"inside": "model"} if name.endswith(".pth") else {}
    for i in range(800):
        rng = random.Random(mix("mutations", kind, i))
        if kind.startswith("inside"):
            changed = rezip(data, rng)
        elif kind.startswith("header"):
            changed = mutate(data, rng, 8, header)
            changed = struct.pack("<Q", len(changed) - len(data) + header - 8) + changed[8:]
        else:
            changed = mutate(data, rng)
        path.write_bytes(changed)
        with WATCH as watch:
            try:
                for t in read_tensors(path, **options, allow_nonfinite=True).values():
                    t.clone()
                outcomes["read"] += 1
            except CheckpointError as e:
                assert str(path) in str(e), i
                outcomes["refused"] += 1
        assert watch.seen == [], i
    assert min(outcomes.values()) > 0, outcomes     # else the mutations prove nothing
    assert sorted(os.listdir(tmp_path)) == sorted(["honest", name])


def test_memory_of_all_mutations(tmp_path):
    """The same, a few hundred of each, under one peak: no mutation makes a small file take much memory."""
    files = honest(tmp_path)
    with f.Peak() as peak:
        for name, data in files.items():
            for i in range(200):
                (tmp_path / name).write_bytes(mutate(data, random.Random(mix("memory", name, i))))
                try:
                    read_tensors(tmp_path / name)
                except CheckpointError as e:
                    assert str(e)
    assert peak.grown < ROOM


def test_the_corpus_is_as_large_as_promised():
    assert 2 * len(PICKLES) + len(ZIPS) + len(SAFE) + len(NUMPY) > 200
    json.dumps([*PICKLES, *ZIPS, *SAFE, *NUMPY])        # every case has a name that prints
