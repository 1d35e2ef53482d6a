"""Files that are whole or absent, whenever the process dies: write aside, flush, rename, flush the folder."""
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from vitrail.core.errors import CheckpointError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """A new file, on the disk itself when this returns. Raises OSError: the file exists, the disk is full."""
    handle = os.open(path, _NEW, 0o644)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(handle, rest):]
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes) -> None:
    """A small file in the place of the one that may be there: readers see the old one or the new one, whole."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    write(aside, [data])
    os.replace(aside, path)
    flush_folder(path.parent)


def flush_file(path: Path) -> None:
    """What another writer left in a file, onto the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(path: Path) -> None:
    """The names in a folder, onto the disk."""
    if os.name == "nt":             # there a folder cannot be opened, and a rename is written through
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    """A folder or file under a new name beside the old one, on the disk when this returns."""
    os.rename(old, new)
    flush_folder(new.parent)


def remove(path: Path) -> None:
    """A folder with all it holds, or a file. A link is removed itself, never what it points to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def free(path: Path) -> int:
    """Bytes that can be written."""
    return shutil.disk_usage(path).free


def _open(path: Path) -> int:
    """A regular file for reading: no link, pipe or device. Raises CheckpointError."""
    try:
        handle = os.open(path, _READ)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror or e}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{path} is no regular file")
    return handle


def read(path: Path, most: int) -> bytes:
    """A regular file of at most `most` bytes. Raises CheckpointError."""
    with os.fdopen(_open(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise CheckpointError(f"{path} has more than {most} bytes")
    return data


def digest(path: Path) -> tuple[str, int]:
    """sha256 and size of a regular file. Raises CheckpointError."""
    try:
        with os.fdopen(_open(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror or e}") from None
