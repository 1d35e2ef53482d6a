"""Where the files of a tar archive lie in it. Only headers are read, and nothing is unpacked."""
import tarfile
from typing import NamedTuple

from vitrail.core.errors import DataError
from vitrail.data.dataset import printable

BLOCK = tarfile.BLOCKSIZE


class Member(NamedTuple):
    name: str
    start: int                                              # of its bytes in the archive
    size: int


def index_tar(path: str) -> tuple[list[Member], list[tuple[str, str]]]:
    """The regular files of an uncompressed tar, and (name, why) of what else is in it: links, devices.

    Raises DataError where the archive is compressed, cut short or damaged.
    """
    where = printable(path)
    files: list[Member] = []
    special: list[tuple[str, str]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if member.issparse() or not member.isreg():
                    special.append((printable(member.name), "a link, a device or a sparse file"))
                else:
                    files.append(Member(member.name, member.offset_data, member.size))
            end = tar.offset                                # tarfile stops in silence at a header it cannot read
        with open(path, "rb") as file:
            total = file.seek(0, 2)
            file.seek(end)
            mark = file.read(BLOCK)
    except Exception as e:                                  # damaged headers raise more than TarError
        with_magic = _compressed(path)
        why = f"it is compressed ({with_magic}), and samples are read in any order; unpack it to a plain tar" \
            if with_magic else f"this is not a readable tar archive: {' '.join(str(e).split()) or type(e).__name__}"
        raise DataError(f"{where}: {why}") from None
    if any(m.start + m.size > total for m in files):
        raise DataError(f"{where}: the archive is cut short; copy or download it again")
    if mark.strip(b"\0") or len(mark) < BLOCK:
        raise DataError(f"{where}: the archive is damaged or cut short at byte {end}; copy or download it again")
    return files, special


def _compressed(path: str) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(6)
    except OSError:
        return ""
    kinds = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), "")
