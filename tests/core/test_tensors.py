"""Files of weights: what torch, safetensors and numpy write is read as they read it."""
import argparse
import os
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from vitrail.core import tensors as module
from vitrail.core.errors import CheckpointError, VitrailError
from vitrail.core.tensors import read_metadata, read_tensors, write_tensors

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def raw(t):
    return t.contiguous().view(-1).view(torch.uint8) if t.numel() else t


def same(one, two):
    assert list(one) == list(two)
    for name, t in one.items():
        o = two[name].detach()
        assert (t.dtype, t.shape) == (o.dtype, o.shape), name
        assert torch.equal(raw(t), raw(o)), name


def every_kind():
    torch.manual_seed(0)
    base = torch.randn(60)
    state = {"plain": torch.randn(3, 4), "slice": base[10:40].view(5, 6), "turned": base[10:40].view(5, 6).t(),
             "steps": base[::2], "scalar": torch.tensor(3.0), "empty": torch.empty(0, 3), "bits": torch.rand(7) > 0.5,
             "parameter": nn.Parameter(torch.randn(2)), "frozen": nn.Parameter(torch.randn(2), requires_grad=False)}
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.int32,
                  torch.int64, torch.complex64, torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2):
        state[str(dtype)] = (torch.randn(5) * 3).abs().to(dtype)
    named = torch.randn(3)
    named.hung_on = "an attribute"
    return {**state, "named": named, "again": state["plain"]}


class TestTorchFiles:
    @FORMS
    def test_every_kind_of_tensor(self, tmp_path, zipped):
        state = every_kind()
        torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        read = read_tensors(tmp_path / "x.pth")
        same(read, state)
        assert read["plain"].data_ptr() == read["again"].data_ptr()
        assert read["turned"].stride() == state["turned"].stride()
        assert not read["parameter"].requires_grad
        if zipped:      # torch cannot read its own legacy form of the newer types
            same(read, torch.load(tmp_path / "x.pth", weights_only=True))

    @FORMS
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_a_state_dict_as_trainers_save_it(self, tmp_path, zipped, protocol):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
        torch.save(net.state_dict(), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped,
                   pickle_protocol=protocol)
        same(read_tensors(tmp_path / "x.pt"), net.state_dict())

    @FORMS
    def test_a_whole_training_checkpoint(self, tmp_path, zipped):
        net = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(net.parameters())
        net(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": np.float64(0.5),
                    "args": argparse.Namespace(lr=1e-3), "seen": {1, 2}, "model_ema": OrderedDict(a=torch.ones(1))},
                   tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
        same(read_tensors(tmp_path / "x.ckpt", inside="model"), net.state_dict())
        with pytest.raises(CheckpointError) as e:
            read_tensors(tmp_path / "x.ckpt")
        for part in ("'model' (2 tensors)", "'optimizer'", "'epoch' (a number)",
                     "'args' (an object, argparse.Namespace)", "inside='model' or 'model_ema'", str(tmp_path)):
            assert part in str(e.value)
        with pytest.raises(CheckpointError, match="no entry 'modle'. Did you mean 'model'"):
            read_tensors(tmp_path / "x.ckpt", inside="modle")
        with pytest.raises(CheckpointError, match="'args' holds no named tensors, but an object, argparse.Namespace"):
            read_tensors(tmp_path / "x.ckpt", inside="args")
        with pytest.raises(CheckpointError, match="'optimizer' holds more than named tensors"):
            read_tensors(tmp_path / "x.ckpt", inside="optimizer")

    def test_only_what_is_wanted_is_read(self, tmp_path, monkeypatch):
        torch.save({"model": {"a": torch.ones(4)}, "optimizer": {"a": torch.ones(1 << 18)}}, tmp_path / "x.pth")
        made, empty = [], torch.empty
        monkeypatch.setattr(torch, "empty", lambda n, **kw: made.append(n) or empty(n, **kw))
        read_tensors(tmp_path / "x.pth", inside="model")
        assert sum(made) == 16

    @pytest.mark.parametrize(("thing", "says"), [
        (torch.ones(3), r"holds no named tensors, but a tensor \[3\]"), ([torch.ones(3)], "but a list"),
        ({}, "holds no named tensors"), ({0: torch.ones(1)}, "more than named tensors"), (3, "but a number"),
        ({"a": torch.ones(1), "epoch": 3}, r"more than named tensors: 'epoch' \(a number\)"),
        ({"a": {"b": {"c": torch.ones(1)}}}, r"'a' \(a table of 1\)")])
    def test_what_is_no_table_of_tensors(self, tmp_path, thing, says):
        torch.save(thing, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=says):
            read_tensors(tmp_path / "x.pth")

    def test_a_whole_module_is_refused_by_name(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=r"'torch\.nn\.modules\.linear\.Linear'.*save only the state dict"):
            read_tensors(tmp_path / "x.pth")

    def test_a_program_is_refused(self, tmp_path):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
        with pytest.raises(CheckpointError):
            read_tensors(tmp_path / "x.pt")

    def test_a_flipped_bit_is_noticed(self, tmp_path):
        """torch loads such a file without a word; the archive's checksums are there to be compared."""
        torch.save({"a": torch.ones(1000)}, tmp_path / "x.pth")
        data = bytearray((tmp_path / "x.pth").read_bytes())
        data[data.index(torch.ones(2).numpy().tobytes()) + 500] ^= 1
        (tmp_path / "x.pth").write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged"):
            read_tensors(tmp_path / "x.pth")


class TestSafetensors:
    def test_round_trip(self, tmp_path):
        state = every_kind()
        assert write_tensors(tmp_path / "x.safetensors", state, {"made": "here"}) == tmp_path / "x.safetensors"
        same(dict(sorted(read_tensors(tmp_path / "x.safetensors").items())), dict(sorted(state.items())))
        assert read_metadata(tmp_path / "x.safetensors") == {"made": "here"}
        same(dict(sorted(safetensors.torch.load_file(tmp_path / "x.safetensors").items())), dict(sorted(state.items())))
        assert state["again"].data_ptr() == state["plain"].data_ptr()

    def test_what_was_read_does_not_hang_on_the_file(self, tmp_path):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(4096)})
        read = read_tensors(tmp_path / "x.safetensors")["a"]
        with (tmp_path / "x.safetensors").open("r+b") as f:
            f.truncate(100)
        assert read.sum() == 4096

    def test_cut_short_names_both_sizes(self, tmp_path):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(100)})
        data = (tmp_path / "x.safetensors").read_bytes()
        (tmp_path / "x.safetensors").write_bytes(data[:-50])
        says = f"has {len(data) - 50} bytes and should have {len(data)}: it is cut short"
        with pytest.raises(CheckpointError, match=says):
            read_tensors(tmp_path / "x.safetensors")

    def test_entries_are_for_other_forms(self, tmp_path):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
        with pytest.raises(CheckpointError, match="leave out inside='model'"):
            read_tensors(tmp_path / "x.safetensors", inside="model")

    def test_writing_overwrites_only_when_asked(self, tmp_path):
        path = tmp_path / "x.safetensors"
        write_tensors(path, {"a": torch.ones(1)})
        with pytest.raises(VitrailError, match="exists already"):
            write_tensors(path, {"a": torch.zeros(1)})
        assert read_tensors(path)["a"] == 1
        write_tensors(path, {"a": torch.zeros(1)}, overwrite=True)
        assert read_tensors(path)["a"] == 0
        assert os.listdir(tmp_path) == ["x.safetensors"]

    @pytest.mark.parametrize("t", [torch.ones(2, device="meta"), torch.eye(2).to_sparse()])
    def test_what_has_no_plain_data_is_not_written(self, tmp_path, t):
        with pytest.raises(CheckpointError, match="'odd'"):
            write_tensors(tmp_path / "x.safetensors", {"odd": t})
        assert os.listdir(tmp_path) == []

    def test_a_full_disk(self, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        monkeypatch.setattr(module.safetensors.torch, "save_file", fail)
        with pytest.raises(VitrailError, match=r"not written: I/O error: No space left"):
            write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
        assert os.listdir(tmp_path) == []


class TestNumpy:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_as_numpy_reads_it(self, tmp_path, save):
        rng = np.random.default_rng(0)
        arrays = {"a/kernel": rng.standard_normal((3, 4)).astype("f4"), "scalar": np.float32(3),
                  "empty": np.zeros((0, 3)), "columns": np.asfortranarray(rng.random((3, 4, 2))),
                  "row": rng.integers(0, 9, 5), "bits": rng.random(4) > 0.5, "half": rng.random(3).astype("f2"),
                  "byte": np.arange(3, dtype=np.uint8), "z": np.ones(2, np.complex64)}
        save(tmp_path / "x.npz", **arrays)
        read = read_tensors(tmp_path / "x.npz")
        assert list(read) == list(arrays)
        for name, t in read.items():
            expected = np.asarray(arrays[name])
            assert t.numpy().dtype == expected.dtype
            assert t.shape == expected.shape
            assert np.array_equal(t.numpy(), expected), name

    def test_bfloat16_of_jax(self, tmp_path):
        """numpy has no such type and writes it as two unnamed bytes."""
        values = torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16)
        np.savez(tmp_path / "x.npz", a=values.view(torch.int16).numpy().view("V2"))
        read = read_tensors(tmp_path / "x.npz")["a"]
        assert read.dtype == torch.bfloat16
        assert torch.equal(read, values)


class TestValues:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64,
                                       torch.float8_e5m2])
    def test_what_is_no_number_needs_leave(self, tmp_path, value, dtype):
        bad = torch.ones(70)
        bad[33] = value
        write_tensors(tmp_path / "x.safetensors", {"good": torch.ones(3), "bad": bad.to(dtype)})
        with pytest.raises(CheckpointError, match="1 of 2 tensors.*'bad'.*allow_nonfinite"):
            read_tensors(tmp_path / "x.safetensors")
        assert len(read_tensors(tmp_path / "x.safetensors", allow_nonfinite=True)) == 2

    def test_truth_values_are_true_or_false(self, tmp_path):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.tensor([True, False])})
        data = bytearray((tmp_path / "x.safetensors").read_bytes())
        data[-2] = 7
        (tmp_path / "x.safetensors").write_bytes(data)
        assert read_tensors(tmp_path / "x.safetensors")["a"].view(torch.uint8).tolist() == [1, 0]
