"""The list of a checkpoint's files with their sha256 and size. It vouches for itself too."""
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from vitrail.core.errors import CheckpointError
from vitrail.training import disk

NAME = "manifest.json"
_FORMAT = 1
_LARGEST = 1 << 24
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_HASH = re.compile(r"[0-9a-f]{64}")


def seal(folder: Path) -> None:
    """Writes the manifest of a folder's files, all flushed, as its last file."""
    files = {}
    for path in sorted(folder.iterdir()):
        sha, size = disk.digest(path)
        files[path.name] = {"bytes": size, "sha256": sha}
    body = {"files": files, "format": _FORMAT}
    disk.write(folder / NAME, [_text({**body, "self": _sha(body)})])
    disk.flush_folder(folder)


def verify(folder: Path) -> None:
    """Raises CheckpointError unless the folder holds exactly the files of its manifest, to the bit."""
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder")
    data = disk.read(folder / NAME, _LARGEST)
    listed = parse(data, folder / NAME)
    body = {k: v for k, v in listed.items() if k != "self"}
    if data != _text(listed) or listed.get("self") != _sha(body):
        raise CheckpointError(f"{folder / NAME} was changed after it was written")
    if listed.get("format") != _FORMAT or isinstance(listed["format"], bool):
        raise CheckpointError(f"{folder / NAME} has the format {str(listed.get('format'))[:40]!r}, not {_FORMAT}")
    files = listed.get("files")
    if not isinstance(files, dict) or NAME in files:
        raise CheckpointError(f"{folder / NAME} lists no files")
    there = set(os.listdir(folder)) - {NAME}
    if odd := there ^ set(files):
        raise CheckpointError(f"{folder} and its manifest disagree about {sorted(odd)[0]!r}")
    for name, entry in files.items():
        _verify_file(folder, name, entry)


def _verify_file(folder: Path, name: str, entry: Any) -> None:
    if not _PLAIN.fullmatch(name):
        raise CheckpointError(f"{folder / NAME} lists {name[:80]!r}, which is no plain name of a file")
    if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"} or type(entry["bytes"]) is not int \
            or not isinstance(entry["sha256"], str) or not _HASH.fullmatch(entry["sha256"]):
        raise CheckpointError(f"{folder / NAME} does not give the size and sha256 of {name!r}")
    sha, size = disk.digest(folder / name)
    if size != entry["bytes"]:
        raise CheckpointError(f"{folder / name} has {size} bytes, and had {entry['bytes']} when it was written")
    if sha != entry["sha256"]:
        raise CheckpointError(f"{folder / name} has other contents than when it was written (sha256)")


def parse(data: bytes, where: Path) -> dict[str, Any]:
    """A JSON object, without the numbers that JSON does not have. Raises CheckpointError."""
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")
    try:
        found = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{where} is no valid JSON: {str(e)[:200]}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{where} holds no JSON object")
    return found


def _text(value: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
    except (ValueError, RecursionError):        # only what was read can be so: an infinite or enormous number
        return b""


def _sha(body: dict[str, Any]) -> str:
    return hashlib.sha256(_text(body)).hexdigest()
