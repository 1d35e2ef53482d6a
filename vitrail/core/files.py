"""Files that are there whole or not at all: written aside, flushed to the disk, then renamed into place."""
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitrail.core.errors import CheckpointError, VitrailError, did_you_mean

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of the disk is used up",
         errno.EFBIG: "the file is larger than this process may write"}


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, *, set_aside: bool) -> None:
    """Raises CheckpointError where the contents have another hash; `set_aside` renames the file to `*.refused`."""
    try:
        found = sha256(path)
    except OSError as e:
        raise CheckpointError(f"{path}: it cannot be read to check its sha256: {e.strerror or e}") from e
    if found == expected.lower():
        return
    where = ""
    if set_aside:
        held = path.resolve()
        try:
            os.replace(held, held.with_name(held.name + ".refused"))
            if path.is_symlink():
                path.unlink()
            where = f" It was set aside as {held.name}.refused, so that the next try downloads it anew."
        except OSError:
            where = " It could not be set aside: remove it."
    raise CheckpointError(f"{path}: this is not the file that was meant: its sha256 is {found}, and should be "
                          f"{expected}.{where} If that happens again, the file at the source has changed.")


def absent(path: Path) -> str:
    """What to say of a file that is not there: the nearest names in its folder, or that there is no folder."""
    try:
        names = sorted(os.listdir(path.parent))[:10_000]
    except OSError:
        return f"there is no such file, nor the folder {str(path.parent)!r}."
    return f"there is no such file.{did_you_mean(path.name, names)}"


def write_file(path: str | Path, data: bytes | str, *, overwrite: bool = False) -> None:
    """Writes a whole file at once; text is UTF-8. Raises VitrailError like `atomic_file`."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to; at the end it takes the place of `path`.

    Raises VitrailError where `path` exists and `overwrite` is not set, and where the disk is full or
    does not allow it. Then, as after any error inside the block, `path` is as it was and nothing is left beside it.
    """
    target = Path(path)
    if target.is_dir() and not target.is_symlink():
        raise VitrailError(f"{target}: cannot write a file here, because this is a folder; name a file inside it")
    _refuse_existing(target, overwrite)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
        try:
            (folder / "new").mkdir()
            temporary = folder / "new" / target.name
            yield temporary
            (folder / "mode").touch()       # what a new file is allowed here; some writers make theirs private
            os.chmod(temporary, (folder / "mode").stat().st_mode & 0o777)
            _flush(temporary)
            _refuse_existing(target, overwrite)
            os.replace(temporary, target)
            _flush(target.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives an empty temporary folder beside `path` to fill; at the end it becomes `path`.

    Every file and folder inside is flushed before the rename, and the parent after it. With `overwrite` the folder
    that was there is moved aside first and removed last, so that one of the two always exists whole.
    Raises VitrailError as `atomic_file` does.
    """
    target = Path(path)
    _refuse_existing(target, overwrite)
    if target.exists() and not target.is_dir():
        raise VitrailError(f"{target}: cannot write a folder here, because this is a file; remove it or name another")
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
        try:
            fresh = folder / "new"
            fresh.mkdir()
            yield fresh
            for inner, _, names in os.walk(fresh, topdown=False):
                for name in names:
                    _flush(Path(inner, name))
                _flush(Path(inner))
            _refuse_existing(target, overwrite)
            if target.exists():
                os.rename(target, folder / "old")
            try:
                os.rename(fresh, target)
            except OSError:
                if (folder / "old").exists():
                    os.rename(folder / "old", target)
                raise
            _flush(target.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(target):
        raise VitrailError(f"{target}: this exists already, and nothing is overwritten unless asked; "
                           "name another place, or say overwrite")


def _flush(path: Path) -> None:
    """Hands a file's or a folder's contents to the disk; a rename is only safe after this."""
    if path.is_symlink() or (os.name == "nt" and path.is_dir()):    # Windows flushes no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in _FULL:
            raise VitrailError(f"{target}: not written, because {_FULL[e.errno]}{_free(target)}; "
                               "make room or write elsewhere. Nothing that was there has changed") from e
        raise VitrailError(f"{target}: not written: {e.strerror or e}; check the place and its permissions") from e


def _free(target: Path) -> str:
    try:
        return f" ({shutil.disk_usage(target.parent).free / 1e6:.1f} MB free)"
    except OSError:
        return ""
