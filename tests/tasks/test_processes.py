"""Evaluation over two real processes: the same numbers as one, and no process waits for one that failed."""
import json
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.tasks.made import Greys, reader
from vitrail.core.errors import DataError
from vitrail.core.task import Options
from vitrail.tasks.classification.evaluate import evaluate

NAMES = tuple("abcdefg")
SHOWN, LABELS = [0, 1, 2, 3, 4, 5, 6, 0, 3, 2, 1], [0, 1, 2, 3, 4, 5, 6, 1, 3, 5, 1]


def sources() -> dict[str, Greys]:
    return {"whole": Greys(SHOWN, LABELS, NAMES), "single": Greys([3], [3], NAMES),
            "torn": Greys(SHOWN, LABELS, NAMES, broken=(2, 10))}


def judge(rank: int, of: int) -> dict[str, object]:
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for name, source in sources().items():
        model = reader(NAMES)
        counted: list[int] = []
        model.register_forward_hook(lambda m, i, o, counted=counted: counted.append(1))
        processes = {"rank": rank, "of": of, "resamples": 20}
        found[name] = evaluate(model, source, Options(batch=4, on_error="skip"), **processes).to_json()
        found[f"{name} forwards"] = len(counted)
        try:
            evaluate(reader(NAMES), source, Options(batch=4), **processes)
            found[f"{name} error"] = None
        except DataError as e:
            found[f"{name} error"] = str(e)
    return found


def work(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    Path(folder, f"{rank}.json").write_text(json.dumps(judge(rank, 2)), "utf-8")
    dist.destroy_process_group()


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(work, (port, str(tmp_path)), nprocs=2, start_method="fork")
    alone = json.loads(json.dumps(judge(0, 1)))
    both = [json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
    for found in both:
        for name in sources():
            assert found[name] == alone[name]
            assert found[f"{name} error"] == alone[f"{name} error"]
        assert found["torn error"] == "image-2: it is torn" and found["single error"] is None
    # a sharded model meets itself at each step: as many forward passes in each process
    assert all(both[0][f"{n} forwards"] == both[1][f"{n} forwards"] for n in sources())
