"""A server on this machine that speaks as much of the Hugging Face hub's protocol as a download needs.

    with HubServer({"owner/repo/model.safetensors": data}) as server:
        ...     # HF_ENDPOINT=server.url;  server.url + "/plain/owner/repo/model.safetensors" is the bare file

It answers HEAD and GET of `/OWNER/REPO/resolve/REVISION/FILE` with the headers that the hub sends, honours ranges,
and fails on demand: a repository that refuses, a body that breaks off, a redirection, a missing ETag.
"""
import hashlib
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from urllib.parse import unquote

COMMIT = "c0ffee" * 6 + "c0ff"      # 40 hexadecimal digits, as git's


class HubServer:
    """Serves `files`, by "owner/repository/file", while it is entered.

    refuse: the status for a repository, "owner/repository" -> 401 | 403 | 404 | 500.
    breaks: how many bytes of a file each of the next answers carries before the connection ends; used up in turn.
    redirect: where each request is sent instead, if not empty.
    requests: every request so far, as (method, path, value of the Range header or "").
    """

    def __init__(self, files: Mapping[str, bytes], *, revisions: tuple[str, ...] = ("main", COMMIT)):
        self.files, self.revisions = dict(files), revisions
        self.refuse: dict[str, int] = {}
        self.breaks: list[int] = []
        self.redirect = ""
        self.content_type = "application/octet-stream"
        self.etags = True
        self.requests: list[tuple[str, str, str]] = []
        self.lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def gets(self) -> list[str]:
        """The ranges asked for by GET requests, in order."""
        return [r for method, _, r in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: a test reads `requests`."""

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, unquote(self.path.partition("?")[0])
        with hub.lock:
            hub.requests.append((self.command, path, self.headers["Range"] or ""))
        if hub.redirect:
            return self._short(302, {"Location": hub.redirect})
        plain = re.fullmatch(r"/plain/([^/]+/[^/]+)/(.+)", path)
        found = plain or re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None:
            return self._short(404, {})
        repo, file = found[1], found[found.lastindex or 0]
        if repo in hub.refuse:
            kind = {401: "RepoNotFound", 403: "GatedRepo", 404: "RepoNotFound"}.get(hub.refuse[repo])
            return self._short(hub.refuse[repo], {"X-Error-Code": kind} if kind else {})
        if not any(name.startswith(repo + "/") for name in hub.files):
            return self._short(404, {"X-Error-Code": "RepoNotFound"})
        if not plain and found[2] not in hub.revisions:
            return self._short(404, {"X-Error-Code": "RevisionNotFound"})
        data = hub.files.get(f"{repo}/{file}")
        if data is None:
            return self._short(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return self._send(data, body)

    def _send(self, data: bytes, body: bool) -> None:
        with self.hub.lock:
            cut = self.hub.breaks.pop(0) if body and self.hub.breaks else None
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = self.headers["If-Range"] in (None, etag)
        start = int(wanted[1]) if wanted and same else 0
        if start and start >= len(data):
            return self._short(416, {"Content-Range": f"bytes */{len(data)}"})
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        headers = {"Content-Type": self.hub.content_type, "Content-Length": str(len(data) - start),
                   "Accept-Ranges": "bytes", "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}
        if self.hub.etags:
            headers |= {"ETag": etag, "X-Linked-Etag": etag}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[start:] if cut is None else data[start:start + cut])
            self.close_connection = cut is not None
        return None

    def _short(self, code: int, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
