"""A checkpoint made by a stranger: a CheckpointError, never another traceback, and never a file outside it."""
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.children import settings
from tests.training.test_resume import run_until
from tests.training.toys import Toy
from vitrail.core.errors import CheckpointError
from vitrail.training import manifest, restore, sharded
from vitrail.training.checkpoint import Checkpoints, state_of
from vitrail.training.distributed import DistributedContext
from vitrail.training.engine import Engine

STEP = "step-00000008"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("good") / "run"
    run_until(out, 9, {})
    return out / "checkpoints" / STEP


def sealed(folder: Path) -> None:
    """A manifest that agrees with what is there, as one who means harm would write it."""
    (folder / "manifest.json").unlink(missing_ok=True)
    manifest.seal(folder)


def forged(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """The manifest changed, with its own checksum right again."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    del body["self"]
    change(body)
    path.write_bytes(manifest._text({**body, "self": manifest._sha(body)}))


def named(name: str) -> Callable[[dict[str, object]], object]:
    """One more file in the list."""
    return lambda body: entries(body).update({name: {"bytes": 0, "sha256": "0" * 64}})


def entry(**values: object) -> Callable[[dict[str, object]], object]:
    """The entry of state.json with other values."""
    return lambda body: entries(body)["state.json"].update(values)


def entries(body: dict[str, object]) -> dict[str, dict[str, object]]:
    files = body["files"]
    assert isinstance(files, dict)
    return files


MANIFESTS: dict[str, Callable[[dict[str, object]], object]] = {
    "climbing": named("../../run.json"), "absolute": named("/etc/passwd"), "hidden": named(".metadata"),
    "itself": named("manifest.json"), "nul": named("a\0b"), "absent": named("extra.safetensors"),
    "huge size": entry(bytes=10**400), "negative size": entry(bytes=-1), "float size": entry(bytes=1.5),
    "true size": entry(bytes=True), "more": entry(x=1), "hash in a list": entry(sha256=["0"]),
    "hash short": entry(sha256="0"),
    "no hash": lambda b: entries(b)["state.json"].pop("sha256"), "no files": lambda b: b.pop("files"),
    "files in a list": lambda b: b.update(files=[1]), "files as text": lambda b: b.update(files={"state.json": "x"}),
    "no file": lambda b: b.update(files={}), "format": lambda b: b.update(format=2),
    "format true": lambda b: b.update(format=True),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_forged_manifests(good: Path, tmp_path: Path, change: Callable[[dict[str, object]], object]) -> None:
    folder = tmp_path / STEP
    shutil.copytree(good, folder)
    forged(folder, change)
    with pytest.raises(CheckpointError):
        manifest.verify(folder)


TEXTS = ["", "[]", "null", "{", "1", '{"a": NaN}', '{"files": 1e999}', "[" * 200_000, "\x00\xff", "9" * 5000,
         '{"format": ' + "9" * 5000 + "}", '"' + "x" * (1 << 24)]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_json_that_is_none(good: Path, tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path / STEP
    shutil.copytree(good, folder)
    (folder / name).write_bytes(text.encode("latin-1"))
    if name == "state.json":
        sealed(folder)
    assert refused(folder)


def refused(folder: Path) -> bool:
    """Whether it is set aside as damaged, by the way that resume takes; never another error."""
    told: list[str] = []
    assert Checkpoints(folder.parent, keep=2, say=told.append).newest() is None
    return len(told) == 1 and (folder.parent / f"damaged-{folder.name}").exists()


def link(folder: Path) -> None:
    (folder / "state.json").rename(folder.parent / "elsewhere")
    (folder / "state.json").symlink_to(folder.parent / "elsewhere")


def whole_link(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


def pipe(folder: Path) -> None:
    (folder / "state.json").unlink()
    os.mkfifo(folder / "state.json")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def a_folder_inside(folder: Path) -> None:
    (folder / "more").mkdir()


def a_folder_for_a_file(folder: Path) -> None:
    (folder / "ema.safetensors").unlink()
    (folder / "ema.safetensors").mkdir()


def a_pickle_beside(folder: Path) -> None:
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")


@pytest.mark.parametrize("harm", [link, whole_link, pipe, a_file, a_folder_inside, a_folder_for_a_file,
                                  a_pickle_beside], ids=lambda f: f.__name__)
def test_what_is_no_file_of_a_checkpoint(good: Path, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    folder = tmp_path / STEP
    shutil.copytree(good, folder)
    harm(folder)
    assert refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json", "optimizer.safetensors"])
def test_missing_files(good: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / STEP
    shutil.copytree(good, folder)
    (folder / name).unlink()
    assert refused(folder)


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    return Engine(Toy(), settings(Path("unused")), DistributedContext(device=torch.device("cpu")))


def reshaped(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.weight"] = tensors["head.weight"].T.contiguous()
    save_file(tensors, folder / "model.safetensors")


def retyped(folder: Path) -> None:
    tensors = load_file(folder / "ema.safetensors")
    save_file({n: t.double() for n, t in tensors.items()}, folder / "ema.safetensors")


def short(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.bias"]
    save_file(tensors, folder / "model.safetensors")


def stranger(folder: Path) -> None:
    tensors = load_file(folder / "optimizer.safetensors")
    save_file({**tensors, "exp_avg.nobody": torch.zeros(2)}, folder / "optimizer.safetensors")


def half_a_state(folder: Path) -> None:
    tensors = load_file(folder / "optimizer.safetensors")
    del tensors["exp_avg_sq.head.bias"]
    save_file(tensors, folder / "optimizer.safetensors")


def gone(folder: Path) -> None:
    (folder / "ema.safetensors").unlink()


def raw(data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(data)
    return write


HEADERS = [b"", b"\x00" * 8, b"\xff" * 8, struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 2) + b"{}",
           struct.pack("<Q", 4) + b"[[[[", b"PK\x03\x04" + b"\x00" * 60, b"\x80\x04cos\nsystem\n.",
           *(struct.pack("<Q", len(h)) + h for h in [
               b'{"head.bias":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,0]}}',
               b'{"head.bias":{"dtype":"F32","shape":[-3],"data_offsets":[0,12]}}',
               b'{"head.bias":{"dtype":"F99","shape":[3],"data_offsets":[0,12]}}',
               b'{"head.bias":{"dtype":"F32","shape":[3],"data_offsets":[5,1]}}'])]


@pytest.mark.parametrize("harm", [reshaped, retyped, short, stranger, half_a_state, gone, *map(raw, HEADERS)])
def test_tensors_that_do_not_fit(good: Path, tmp_path: Path, engine: Engine, harm: Callable[[Path], None]) -> None:
    folder = tmp_path / STEP
    shutil.copytree(good, folder)
    harm(folder)
    sealed(folder)
    manifest.verify(folder)
    before = {n: t.clone() for n, t in engine.groups()["model"].items()}
    with pytest.raises(CheckpointError):
        restore.resume(engine, folder, state_of(folder))
    assert all(torch.equal(before[n], t) for n, t in engine.groups()["model"].items()), "nothing is loaded by halves"


@pytest.mark.parametrize("data", HEADERS, ids=range(len(HEADERS)))
def test_shards_that_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "shard-00001-model-00001-of-00001.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError):
        found = sharded.listed(tmp_path)
        sharded.read(tmp_path, {"model": {n: torch.zeros(1) for n in found.get("model", {"head.bias": 0})}}, alone=True)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "pwned"
    (tmp_path / ".metadata").write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
    save_file({"model.a": torch.zeros(2)}, tmp_path / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match="pickle"):
        sharded.listed(tmp_path)
    with pytest.raises(CheckpointError, match="pickle"):
        sharded.read(tmp_path, {"model": {"a": torch.zeros(2)}}, alone=True)
    assert not canary.exists()
