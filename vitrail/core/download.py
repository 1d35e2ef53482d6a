"""Downloads over HTTP that end whole, checked and in place, or go on later from where they broke off."""
import hashlib
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vitrail.core.errors import CheckpointError
from vitrail.core.files import check_sha256

LARGEST = 64 << 30              # bytes
ATTEMPTS = 3
_CHUNK, _PATIENCE = 1 << 20, 30.0
_BY_HAND = "or download it by hand and pass its path"


class _Broken(Exception):
    """The connection ended before the file did; what came is kept."""


def download(url: str, folder: Path, *, sha256: str = "", offline: bool = False) -> Path:
    """The file at `url`, kept under `folder` for the next time.

    Certificates are checked; plain http is taken only from this machine or with a `sha256`; redirections never leave
    https. Raises CheckpointError.
    """
    _check_address(url, sha256)
    parts = urlsplit(url)
    name = re.sub(r"[^\w.-]", "_", parts.path.rpartition("/")[2]).lstrip(".")[-100:] or "download"
    target = folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    with _explained(url):
        if not target.is_file():
            if offline:
                raise CheckpointError(f"{url}: it is not in the cache, and offline mode is on; "
                                      f"download it once while online, {_BY_HAND}")
            _get(url, target)
    if sha256:
        check_sha256(target, sha256, set_aside=True)
    return target


def _check_address(url: str, sha256: str) -> None:
    try:
        parts = urlsplit(url)
        host, inside = parts.hostname or "", parts.username is not None
    except ValueError as e:
        raise CheckpointError(f"{url!r} is no address: {e}") from e
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f]", url):
        raise CheckpointError(f"{url!r}: weights come from a path, https://... or hf://owner/repository/file")
    if inside:
        raise CheckpointError(f"https://{host}/...: leave name and password out of the address; "
                              "download it by hand and pass its path")
    if parts.scheme == "http" and not sha256 and host not in ("localhost", "127.0.0.1", "::1"):
        raise CheckpointError(f"{url}: anybody on the way can change what plain http brings; use https, "
                              "or say what its sha256 must be")


def _get(url: str, target: Path) -> None:
    from filelock import FileLock  # comes with torch

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):
        if target.is_file():        # another process brought it while this one waited
            return
        part = target.with_name(target.name + ".part")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _attempt(url, part)
                break
            except _Broken:
                if attempt == ATTEMPTS:
                    raise
        os.replace(part, target)


def _attempt(url: str, part: Path) -> None:
    """Brings `part` to its full length; goes on from what is there where the file at `url` is still the same."""
    note = part.with_name(part.name + ".etag")
    etag = _strong(note.read_text("latin-1")) if part.exists() and note.exists() else ""
    have = part.stat().st_size if etag else 0
    headers = {"User-Agent": "vitrail", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    try:
        answer = _opener().open(urllib.request.Request(url, headers=headers), timeout=_PATIENCE)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not have:
            raise
        part.unlink()                   # more bytes here than there: begin anew
        raise _Broken("its length changed") from e
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise CheckpointError(f"{url}: the server answered with a web page, not with a file; open it in a browser, "
                                  "download the file by hand and pass its path")
        place = answer.headers["Content-Range"] or ""
        resumed = have > 0 and answer.status == 206 and place.startswith(f"bytes {have}-")
        if answer.status != 200 and not resumed:
            raise _Broken(f"an answer {answer.status} to no question")
        have = have if resumed else 0
        length = re.fullmatch(r"[0-9]{1,18}", answer.headers["Content-Length"] or "")
        total = have + int(length[0]) if length else None
        if (total or 0) > LARGEST:
            raise CheckpointError(f"{url}: it has {total} bytes, more than any file of weights ({LARGEST}); "
                                  "if it is right, download it by hand and pass its path")
        note.write_text(_strong(answer.headers["ETag"] or ""))
        with part.open("ab" if resumed else "wb") as f:
            try:
                while data := answer.read(_CHUNK):
                    have += len(data)
                    if have > LARGEST:
                        raise CheckpointError(f"{url}: it is longer than any file of weights ({LARGEST} bytes)")
                    f.write(data)
            except (http.client.HTTPException, ConnectionError, TimeoutError) as e:
                raise _Broken(f"{have} bytes came") from e
            f.flush()
            os.fsync(f.fileno())
    if total is not None and have != total:
        raise _Broken(f"{have} of {total} bytes came")
    note.unlink()


def _strong(etag: str) -> str:
    """The mark of one exact content, or nothing where a server gives none that could be sent back."""
    return etag if re.fullmatch(r'"[\x21\x23-\x7e]+"', etag) else ""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any,
                         newurl: str) -> urllib.request.Request | None:
        to = urlsplit(newurl).scheme
        if to != "https" and (to != "http" or req.type != "http"):
            raise CheckpointError(f"{req.full_url}: the server sends on to {newurl[:200]!r}, which is not secure; "
                                  "download it by hand and pass its path")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Only http and https: the standard opener would also follow file: and ftp: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(),
                    urllib.request.HTTPSHandler(context=ssl.create_default_context()), _Redirects(),
                    urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
                    urllib.request.UnknownHandler()):
        opener.add_handler(handler)
    return opener


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as e:
        e.close()
        why = {401: "it asks for a login", 403: "it is not allowed", 404: "there is no such file",
               410: "the file was removed", 429: "there were too many requests"}.get(
                   e.code, "it sends on in circles, or to where weights cannot be" if e.code < 400 else e.reason)
        raise CheckpointError(f"{url}: the server answered {e.code}: {why}; check the address, {_BY_HAND}") from e
    except urllib.error.URLError as e:
        if isinstance(e.reason, ssl.SSLCertVerificationError):
            raise CheckpointError(f"{url}: the server's certificate is not trusted ({e.reason.verify_message}); "
                                  "check the date of this machine and its certificates") from e
        raise CheckpointError(f"{url}: the server cannot be reached ({e.reason}); "
                              f"check the connection, {_BY_HAND}") from e
    except _Broken as e:
        raise CheckpointError(f"{url}: the connection broke off: {e}; what came is kept, so run it again "
                              "to go on from there") from e
    except http.client.HTTPException as e:
        raise CheckpointError(f"{url}: the server does not speak HTTP ({type(e).__name__}); check the address") from e
    except ValueError as e:
        raise CheckpointError(f"{url}: this is no address that can be asked for ({e}); check it") from e
    except OSError as e:
        raise CheckpointError(f"{url}: not downloaded: {e.strerror or e}; check the connection and the room on "
                              f"the disk, {_BY_HAND}") from e
