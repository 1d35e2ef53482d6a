"""A file or folder is there whole or not at all, and nothing is overwritten unless asked."""
import errno
import hashlib
import os
import resource
import subprocess
import sys

import pytest

from vitrail.core.errors import CheckpointError, VitrailError
from vitrail.core.files import absent, atomic_file, atomic_folder, check_sha256, sha256, write_file


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_writes_and_hashes(tmp_path):
    write_file(tmp_path / "new" / "a.txt", "wörd")
    assert (tmp_path / "new" / "a.txt").read_text("utf-8") == "wörd"
    assert sha256(tmp_path / "new" / "a.txt") == hashlib.sha256("wörd".encode()).hexdigest()


def test_others_may_read_what_was_written(tmp_path):
    """A writer that makes its own private file must not lock out everybody else."""
    with atomic_file(tmp_path / "a") as new:
        new.write_bytes(b"1")
        new.chmod(0o600)
    (tmp_path / "plain").touch()
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").touch()
    (tmp_path / "plain_folder").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain_folder").stat().st_mode


def test_a_file_may_have_any_name(tmp_path):
    for name in ("new", "old", "mode"):
        write_file(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name


def test_folder_is_filled_and_renamed(tmp_path):
    with atomic_folder(tmp_path / "model") as new:
        assert not (tmp_path / "model").exists()
        (new / "sub").mkdir()
        (new / "sub" / "a").write_bytes(b"1")
    assert everything(tmp_path) == {"model": None, "model/sub": None, "model/sub/a": b"1"}


def test_nothing_is_overwritten_unless_asked(tmp_path):
    write_file(tmp_path / "a", b"old")
    with atomic_folder(tmp_path / "f") as new:
        (new / "old").write_bytes(b"old")
    before = everything(tmp_path)
    with pytest.raises(VitrailError, match="exists already"):
        write_file(tmp_path / "a", b"new")
    with pytest.raises(VitrailError, match="exists already"), atomic_folder(tmp_path / "f"):
        pytest.fail("the block must not run")
    with pytest.raises(VitrailError, match="is a folder"):
        write_file(tmp_path / "f", b"new", overwrite=True)
    with pytest.raises(VitrailError, match="is a file"), atomic_folder(tmp_path / "a", overwrite=True):
        pytest.fail("the block must not run")
    assert everything(tmp_path) == before
    write_file(tmp_path / "a", b"new", overwrite=True)
    with atomic_folder(tmp_path / "f", overwrite=True) as new:
        (new / "new").write_bytes(b"new")
    assert everything(tmp_path) == {"a": b"new", "f": None, "f/new": b"new"}


def test_what_appears_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(VitrailError, match="exists already"), atomic_file(tmp_path / "a") as new:
        new.write_bytes(b"mine")
        (tmp_path / "a").write_bytes(b"theirs")
    assert everything(tmp_path) == {"a": b"theirs"}


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_an_error_inside_leaves_all_as_it_was(tmp_path, make):
    if make is atomic_file:
        write_file(tmp_path / "a", b"old")
    else:
        with atomic_folder(tmp_path / "a") as new:
            (new / "x").write_bytes(b"old")
    before = everything(tmp_path)
    with pytest.raises(KeyError), make(tmp_path / "a", overwrite=True) as new:
        (new / "x" if new.is_dir() else new).write_bytes(b"half")
        raise KeyError
    assert everything(tmp_path) == before


def test_order_of_write_flush_rename_flush(tmp_path, monkeypatch):
    """SIGKILL cannot show what a power cut does; the order of the calls can."""
    seen = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(handle):
        seen.append("flush " + os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def note_rename(a, b):
        seen.append(f"rename {os.path.basename(a)} {os.path.basename(b)}")
        rename(a, b)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    with atomic_folder(tmp_path / "model") as new:
        (new / "sub").mkdir()
        (new / "sub" / "a").write_bytes(b"1")
    assert seen == ["flush a", "flush sub", "flush new", "rename new model", f"flush {tmp_path.name}"]


def test_a_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "f") as new:
        (new / "x").write_bytes(b"old")
    before, rename = everything(tmp_path), os.rename

    def fail(a, b):
        if os.path.basename(a) == "new":
            raise OSError(errno.EIO, "input/output error")
        rename(a, b)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(VitrailError, match="input/output error"), atomic_folder(tmp_path / "f", overwrite=True) as new:
        (new / "x").write_bytes(b"new")
    assert everything(tmp_path) == before


def test_a_file_that_may_not_grow_is_a_clear_error(tmp_path):
    """A real refusal of the system: files of this process may have 4096 bytes."""
    write_file(tmp_path / "a", b"old")
    before, limit = everything(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(VitrailError, match="larger than this process may write.*make room"):
            write_file(tmp_path / "a", b"x" * 8192, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert everything(tmp_path) == before


def test_a_full_disk_is_a_clear_error(tmp_path):
    with pytest.raises(VitrailError, match=r"the disk is full \(.* MB free\); make room"), atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert everything(tmp_path) == {}


def test_killed_while_writing_the_old_file_stands(tmp_path):
    write_file(tmp_path / "a", b"old")
    code = ("import os, signal, sys; from vitrail.core.files import atomic_file\n"
            "with atomic_file(sys.argv[1], overwrite=True) as new:\n"
            "    new.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False).returncode == -9
    assert (tmp_path / "a").read_bytes() == b"old"


def test_hash_check_sets_aside_only_when_told(tmp_path):
    write_file(tmp_path / "a", b"data")
    check_sha256(tmp_path / "a", sha256(tmp_path / "a").upper(), set_aside=True)
    with pytest.raises(CheckpointError, match="not the file that was meant"):
        check_sha256(tmp_path / "a", "0" * 64, set_aside=False)
    assert (tmp_path / "a").exists()
    with pytest.raises(CheckpointError, match=r"set aside as a\.refused"):
        check_sha256(tmp_path / "a", "0" * 64, set_aside=True)
    assert everything(tmp_path) == {"a.refused": b"data"}


def test_absent_names_what_is_near(tmp_path):
    write_file(tmp_path / "vit_tiny.pth", b"1")
    assert "'vit_tiny.pth'" in absent(tmp_path / "vit_tny.pth")
    assert "nor the folder" in absent(tmp_path / "no" / "vit_tny.pth")
