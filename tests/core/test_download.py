"""Downloads over HTTP, from a server on this machine."""
import hashlib
import threading
import time

import pytest

from vitrail.core import download as module
from vitrail.core.download import download
from vitrail.core.errors import CheckpointError
from vitrail.testing.hub_server import HubServer

DATA = bytes(range(256)) * 40
HASH = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer({"o/r/model.pth": DATA}) as made:
        yield made


@pytest.fixture
def url(server):
    return server.url + "/plain/o/r/model.pth"


def test_downloads_once(server, url, tmp_path):
    path = download(url, tmp_path, sha256=HASH)
    assert path.name == "model.pth"
    assert path.read_bytes() == DATA
    assert download(url, tmp_path, sha256=HASH, offline=True) == path
    assert len(server.requests) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "model.pth"]


def test_addresses_that_differ_do_not_share_a_file(server, url, tmp_path):
    assert download(url, tmp_path) != download(url + "?v=2", tmp_path)


def test_resumes_within_one_call(server, url, tmp_path):
    server.breaks = [3000, 2000]
    assert download(url, tmp_path, sha256=HASH).read_bytes() == DATA
    assert server.gets() == ["", "bytes=3000-", "bytes=5000-"]


def test_resumes_in_a_later_call(server, url, tmp_path):
    server.breaks = [1000] * module.ATTEMPTS
    with pytest.raises(CheckpointError, match="broke off: 3000 of 10240 bytes came; what came is kept"):
        download(url, tmp_path)
    assert not list(tmp_path.rglob("model.pth"))
    server.requests.clear()
    assert download(url, tmp_path).read_bytes() == DATA
    assert server.gets() == ["bytes=3000-"]


def test_begins_anew_when_the_file_has_changed(server, url, tmp_path):
    server.breaks = [1000] * module.ATTEMPTS
    with pytest.raises(CheckpointError):
        download(url, tmp_path)
    for data in (DATA[::-1], DATA[:2000]):      # another file of the same length; then a shorter one
        server.files["o/r/model.pth"] = data
        path = download(url, tmp_path)
        assert path.read_bytes() == data
        path.rename(path.with_name("model.pth.part"))
        path.with_name("model.pth.part.etag").write_text('"another"')


def test_more_bytes_here_than_there(server, url, tmp_path):
    path = download(url, tmp_path)
    path.rename(path.with_name("model.pth.part"))
    path.with_name("model.pth.part").write_bytes(DATA + b"more")
    path.with_name("model.pth.part.etag").write_text(f'"{HASH}"')
    assert download(url, tmp_path).read_bytes() == DATA
    assert server.gets() == ["", f"bytes={len(DATA) + 4}-", ""]


@pytest.mark.parametrize("note", ["", 'W/"weak"', '"a\r\nX: y"', "\xff", "no quotes"])
def test_a_mark_that_cannot_be_sent_back_means_anew(server, url, tmp_path, note):
    path = download(url, tmp_path)
    path.unlink()
    path.with_name("model.pth.part").write_bytes(b"something else")
    path.with_name("model.pth.part.etag").write_text(note, "latin-1")
    assert download(url, tmp_path).read_bytes() == DATA
    assert server.gets() == ["", ""]


@pytest.mark.parametrize("address", ["https://" + "a" * 80 + ".example/x", "http://127.0.0.1:99999/x", "http://localhost/\u00e9",
                                     "https://[::1]]/x", "http://127.0.0.1:9/" + "n" * 400])
def test_odd_addresses(address, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(CheckpointError):
        download(address, tmp_path)


def test_a_folder_that_cannot_be_written(url, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="not downloaded"):
        download(url, tmp_path / "file")


def test_without_an_etag_nothing_is_resumed(server, url, tmp_path):
    server.etags = False
    server.breaks = [1000]
    assert download(url, tmp_path).read_bytes() == DATA
    assert server.gets() == ["", ""]


def test_a_wrong_hash_is_set_aside(server, url, tmp_path):
    with pytest.raises(CheckpointError, match=f"is {HASH}, and should be {'0' * 64}.*set aside as model.pth.refused"):
        download(url, tmp_path, sha256="0" * 64)
    assert not list(tmp_path.rglob("model.pth"))
    assert download(url, tmp_path, sha256=HASH).read_bytes() == DATA


@pytest.mark.parametrize(("code", "says"), [(401, "asks for a login"), (403, "not allowed"), (404, "no such file"),
                                            (429, "too many"), (500, "500")])
def test_refusals(server, url, tmp_path, code, says):
    server.refuse["o/r"] = code
    with pytest.raises(CheckpointError, match=f"answered {code}: .*{says}.*pass its path" if code != 500 else says):
        download(url, tmp_path)


def test_a_page_is_not_a_file(server, url, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(CheckpointError, match="answered with a web page"):
        download(url, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size]


def test_a_file_that_is_too_long(server, url, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 10_000)
    with pytest.raises(CheckpointError, match="more than any file of weights"):
        download(url, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size]


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "gopher://h/"])
def test_redirections_stay_on_http(server, url, tmp_path, to):
    server.redirect = to
    with pytest.raises(CheckpointError):
        download(url, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size]


def test_redirections_end(server, url, tmp_path):
    server.redirect = url
    with pytest.raises(CheckpointError, match="in circles"):
        download(url, tmp_path)


def test_https_does_not_become_http():
    from urllib.request import Request
    with pytest.raises(CheckpointError, match="not secure"):
        module._Redirects().redirect_request(Request("https://h/x"), None, 302, "", {}, "http://h/x")


@pytest.mark.parametrize(("address", "says"), [
    ("http://models.example/x.pth", "plain http"),
    ("https://me:secret@models.example/x.pth", "leave name and password"),
    ("ftp://models.example/x.pth", "weights come from"), ("https:///x", "weights come from")])
def test_addresses_that_are_not_followed(address, says, tmp_path):
    with pytest.raises(CheckpointError, match=says) as caught:
        download(address, tmp_path)
    assert "secret" not in str(caught.value)


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(CheckpointError, match="cannot be reached.*pass its path"):
        download("http://127.0.0.1:9/x.pth", tmp_path)


def test_a_certificate_nobody_trusts(tmp_path, monkeypatch):
    """Certificates are checked: https to a server that shows none fails before a byte of the file."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer({"o/r/model.pth": DATA}) as made, pytest.raises(CheckpointError):
        download(made.url.replace("http:", "https:") + "/plain/o/r/model.pth", tmp_path)
    import ssl
    (context,) = [h._context for h in module._opener().handlers if hasattr(h, "_context") and h._context]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_two_at_once_download_once(server, url, tmp_path):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(download(url, tmp_path, sha256=HASH))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(paths)) == 1
    assert len(paths) == 4
    assert server.gets() == [""]


def test_a_name_from_an_address_is_a_name(server, tmp_path):
    server.files["o/r/..%2f..%2fx y.pth"] = DATA
    path = download(server.url + "/plain/o/r/..%252f..%252fx%20y.pth", tmp_path)
    assert path.parent.parent == tmp_path
    assert time.time() - path.stat().st_mtime < 3600
