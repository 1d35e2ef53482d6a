"""Fetching: from a cache laid out by hand, and from a server on this machine that speaks the hub's protocol."""
import hashlib
import os
import time

import pytest

from vitrail.core.errors import CheckpointError
from vitrail.core.hub import cache_folder, fetch
from vitrail.testing.hub_server import COMMIT, HubServer

DATA = bytes(range(256)) * 40
HASH = hashlib.sha256(DATA).hexdigest()
FILE = "owner/repo/model.safetensors"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Caches of its own, no way to the network, no waiting between the tries of the hub's library."""
    for name in ("HF_HUB_CACHE", "VITRAIL_CACHE", "VITRAIL_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")        # nobody listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def server(monkeypatch):
    with HubServer({FILE: DATA}) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        yield made


def lay_out(cache, data=DATA, commit=COMMIT):
    """What the hub's cache looks like on a disk: contents by hash, names as links, branches as references."""
    repo = cache / "models--owner--repo"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repo / folder).mkdir(parents=True)
    (repo / "blobs" / HASH).write_bytes(data)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{HASH}")
    return repo


class TestCacheOnDisk:
    def test_found_offline(self, tmp_path):
        lay_out(tmp_path / "hf" / "hub")
        for source in ("hf://" + FILE, "hf://owner/repo@main/model.safetensors",
                       f"hf://owner/repo@{COMMIT}/model.safetensors"):
            assert fetch(source, offline=True, sha256=HASH).read_bytes() == DATA
        assert fetch("hf://" + FILE, revision="main", offline=True).name == "model.safetensors"

    def test_found_when_the_hub_cannot_be_reached(self, tmp_path):
        lay_out(tmp_path / "hf" / "hub")
        assert fetch("hf://" + FILE).read_bytes() == DATA

    @pytest.mark.parametrize("variable", ["VITRAIL_OFFLINE", "HF_HUB_OFFLINE"])
    def test_the_environment_says_offline(self, variable, monkeypatch, server):
        monkeypatch.setenv(variable, "1")
        with pytest.raises(CheckpointError, match="offline mode is on.*pass its path"):
            fetch("hf://" + FILE)
        with pytest.raises(CheckpointError, match="offline mode is on.*pass its path"):
            fetch(f"{server.url}/plain/{FILE}")
        assert server.requests == []

    def test_another_cache_folder(self, tmp_path, monkeypatch):
        lay_out(tmp_path / "elsewhere")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
        assert fetch("hf://" + FILE, offline=True).is_relative_to(tmp_path / "elsewhere")

    def test_damage_in_the_cache_is_found_and_mended(self, tmp_path, server):
        repo = lay_out(tmp_path / "hf" / "hub", data=b"x" + DATA[1:])
        with pytest.raises(CheckpointError, match="set aside"):
            fetch("hf://" + FILE)
        assert [p.name for p in (repo / "blobs").iterdir()] == [HASH + ".refused"]
        assert fetch("hf://" + FILE).read_bytes() == DATA


class TestHub:
    def test_downloads_once(self, server):
        assert fetch("hf://" + FILE, sha256=HASH).read_bytes() == DATA
        assert fetch("hf://" + FILE).read_bytes() == DATA
        assert len([p for m, p, _ in server.requests if m == "GET" and "/resolve/" in p]) == 1
        server.__exit__(None, None, None)
        assert fetch("hf://" + FILE, offline=True).read_bytes() == DATA

    def test_goes_on_after_a_break(self, server, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
        server.breaks = [3000, 2000]
        assert fetch("hf://" + FILE).read_bytes() == DATA
        assert [r for r in server.gets() if r] == ["bytes=3000-", "bytes=5000-"]

    def test_a_body_that_never_comes_whole(self, server, tmp_path):
        server.files["owner/repo/two.bin"] = DATA
        server.breaks = [0] * 50
        with pytest.raises(CheckpointError, match=r"two\.bin: the download failed.*try again"):
            fetch("hf://owner/repo/two.bin", revision=COMMIT)
        server.breaks = []
        assert not list((tmp_path / "hf").rglob("two.bin"))
        assert fetch("hf://owner/repo/two.bin").read_bytes() == DATA

    def test_a_wrong_hash_is_set_aside_and_brought_anew(self, server, tmp_path):
        with pytest.raises(CheckpointError, match=f"is {HASH}, and should be {'0' * 64}.*set aside"):
            fetch("hf://" + FILE, sha256="0" * 64)
        assert len(list((tmp_path / "hf").rglob("*.refused"))) == 1
        assert fetch("hf://" + FILE, sha256=HASH).read_bytes() == DATA

    @pytest.mark.parametrize(("source", "says"), [
        ("hf://owner/repo/none.pth", "'owner/repo' has no file 'none.pth'"),
        ("hf://owner/none/model.safetensors", "has no repository 'owner/none', or keeps it private.*pass its path"),
        ("hf://owner/repo@v9/model.safetensors", "has no revision 'v9'"),
    ])
    def test_what_is_not_there(self, server, source, says):
        with pytest.raises(CheckpointError, match=says):
            fetch(source)

    @pytest.mark.parametrize(("code", "says"), [
        (401, "keeps it private; check the name, log in"), (403, "asks for an agreement first; accept it at"),
        (404, "has no repository"), (500, "answered 500, and the file is not in the cache; try again later"),
    ])
    def test_what_is_refused(self, server, code, says):
        server.refuse["owner/repo"] = code
        with pytest.raises(CheckpointError, match=says):
            fetch("hf://" + FILE)

    def test_no_network(self):
        with pytest.raises(CheckpointError, match="cannot be reached, and the file is not in the cache.*pass its path"):
            fetch("hf://" + FILE)

    def test_something_else_answers(self, server):
        server.redirect = "/elsewhere"
        with pytest.raises(CheckpointError, match="pass its path"):
            fetch("hf://" + FILE)


class TestSources:
    @pytest.mark.parametrize("source", ["hf://model.pth", "hf://owner/repo", "hf://owner/repo/../../x", "hf://",
                                        "hf://a b/c/d", "ftp://host/x.pth", "file:///etc/passwd", "https://",
                                        "https://host/a b.pth", "data://x", "https://[::1/x", "hf://owner/repo/"])
    def test_malformed(self, source):
        with pytest.raises(CheckpointError):
            fetch(source)

    def test_malformed_hash_and_revisions(self):
        with pytest.raises(CheckpointError, match="64 hexadecimal digits"):
            fetch("a.pth", sha256="abc")
        with pytest.raises(CheckpointError, match="only hf:// sources"):
            fetch("a.pth", revision="main")
        with pytest.raises(CheckpointError, match="one revision and the argument another"):
            fetch("hf://owner/repo@a/x", revision="b")

    def test_a_path(self, tmp_path):
        (tmp_path / "vit.pth").write_bytes(DATA)
        assert fetch(tmp_path / "vit.pth", sha256=HASH) == tmp_path / "vit.pth"
        assert fetch(str(tmp_path / "vit.pth"), offline=True) == tmp_path / "vit.pth"
        with pytest.raises(CheckpointError, match="not the file that was meant"):
            fetch(tmp_path / "vit.pth", sha256="1" * 64)
        assert os.listdir(tmp_path) == ["vit.pth"]
        with pytest.raises(CheckpointError, match="only a file has a sha256"):
            fetch(tmp_path, sha256="1" * 64)
        for odd in ("nul\0.pth", "a" * 300 + ".pth", "~nobody-by-this-name/x.pth", ""):
            with pytest.raises(CheckpointError):
                fetch(odd, sha256="1" * 64)
        with pytest.raises(CheckpointError, match=r"no such file. Did you mean 'vit\.pth'"):
            fetch(tmp_path / "vt.pth")
        with pytest.raises(CheckpointError, match="say hf://owner/repo/model.safetensors"):
            fetch(FILE)

    def test_the_cache_folder(self, tmp_path, monkeypatch):
        assert cache_folder() == tmp_path / "xdg" / "vitrail"
        monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "own"))
        assert cache_folder() == tmp_path / "own"
