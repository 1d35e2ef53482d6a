"""Thousands of changed files of weights: each is read or refused by CheckpointError, and nothing else happens."""
import io
import os
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.hostile import forge as f
from tests.hostile.weights import RUN
from vitrail.core.errors import CheckpointError
from vitrail.core.seeds import derive_seed
from vitrail.core.tensors import read_tensors, write_tensors

SPICE = [*(bytes([c]) for c in b"Rb\x81Q(t}]suae0.\x93\x94\x85N{"), b"cos\nsystem\n", RUN, b"q\0", b"h\0", b"\x80\x04",
         b"\x8a\x08" + b"\x7f" * 8, b"J\xff\xff\xff\xff", b"X\xff\xff\xff\x7f", b"\xff" * 7 + b"\x7f", b"\0" * 8,
         b"99999999999999999999", b"-1", b"[0,0]", b'"F64"', b"null"]


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
            spice = rng.choice(SPICE)
            part[at:at + len(spice)] = spice
    return head + bytes(part) + tail


def honest(tmp_path):
    """The files that the mutations start from, written by the programs that write such files."""
    state = {"a": torch.ones(2, 3), "b": torch.arange(4).half(), "c": torch.zeros(5)[1:],
             "d": torch.nn.Parameter(torch.ones(1))}
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
    for i in range(3000):
        rng = random.Random(derive_seed("mutations", kind, i))
        if kind.startswith("inside"):
            changed = rezip(data, rng)
        elif kind.startswith("header"):
            changed = mutate(data, rng, 8, header)
            changed = struct.pack("<Q", len(changed) - len(data) + header - 8) + changed[8:]
        else:
            changed = mutate(data, rng)
        path.unlink(missing_ok=True)        # overwriting in place makes some file systems flush each time
        path.write_bytes(changed)
        with f.WATCH as watch:
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
                (tmp_path / name).unlink()
                (tmp_path / name).write_bytes(mutate(data, random.Random(derive_seed("memory", name, i))))
                try:
                    read_tensors(tmp_path / name)
                except CheckpointError as e:
                    assert str(e)
    assert peak.grown < f.ROOM
