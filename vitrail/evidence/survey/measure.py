"""What one model costs here, measured in a process of its own: `python -m vitrail.evidence.survey.measure`.

It reads what to measure as a line of JSON, and answers with another. It ends when the process that asked has gone.
"""
import json
import math
import os
import statistics
import sys
import threading
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.allocator import kept_memory
from vitrail.core.errors import ExportError
from vitrail.deploy.fold import folded
from vitrail.measure.memory import peak_bytes
from vitrail.measure.operations import multiply_adds
from vitrail.measure.timing import Times, gflops, interleaved, yardstick
from vitrail.models import create_model

CPU = torch.device("cpu")
LEAST = 3               # rounds: of fewer, a median says nothing


def measure(name: str, *, batches: list[int], rounds: int, budget: float, limit_gb: float) -> dict[str, Any]:
    """Parameters, multiply-adds, and for each batch the peak of memory beside the weights and the image, and the times
    of the model as it is and as it is optimised, turn by turn beside a yardstick. `left_out`: batches, and why."""
    torch.manual_seed(0)
    model = create_model(name)                              # in evaluation mode, as born
    size = model.config.spec.preprocessing.size
    sides: dict[str, nn.Module] = {"eager": model}
    optimised = "nothing to fold"
    try:
        copy = folded(model)
        gone = _parts(model) - _parts(copy)
        if gone:
            sides["optimised"], optimised = copy, f"{gone} norms and gains folded"
    except ExportError as e:
        optimised = f"as it is: {e}"
    found: dict[str, Any] = {
        "size": list(size), "params": sum(p.numel() for p in model.parameters()), "optimised": optimised,
        "multiply_adds": multiply_adds(partial(model, _images(1, size))), "batches": {}, "left_out": {}}
    weights = len(sides) * sum(t.nbytes for t in model.state_dict().values())
    left, image_bytes = budget, 0.0
    for batch in batches:
        foretold = weights + batch * image_bytes
        if foretold > limit_gb * 2**30:
            found["left_out"][batch] = f"it would hold about {foretold / 2**30:.1f} GiB of {limit_gb:.1f} allowed"
            continue
        start = time.perf_counter()
        told, why = _of_batch(sides, _images(batch, size), rounds, left / (len(batches) - batches.index(batch)))
        left -= time.perf_counter() - start
        image_bytes = told["peak_bytes"] / batch
        if why:
            found["left_out"][batch] = why
        else:
            found["batches"][batch] = told
    return found


def _of_batch(sides: dict[str, nn.Module], x: Tensor, rounds: int, budget: float) -> tuple[dict[str, Any], str]:
    """One batch's peak and times; or why it has no times."""
    told: dict[str, Any] = {}
    with torch.inference_mode():
        told["peak_bytes"] = peak_bytes(partial(sides["eager"], x))
        with kept_memory():
            start = time.perf_counter()
            for side in sides.values():
                side(x)                                     # warms up, and foretells what a round takes
            once = time.perf_counter() - start
            fit = int(budget / once) - 1
            if fit < min(rounds, LEAST):
                least = min(rounds, LEAST)
                return told, (f"{least} rounds and one that warms up would take about {(least + 1) * once:.0f} s, of "
                              f"{budget:.0f} s allowed")
            calls = {name: partial(side, x) for name, side in sides.items()}
            times = interleaved({**calls, "yardstick": yardstick(CPU)}, rounds=min(rounds, fit), device=CPU, warm=1)
    eager, fast = times["eager"], times.get("optimised", times["eager"])
    middle, low, high = eager.over(fast)
    return {**told, "rounds": len(eager.seconds), "eager": _of_times(eager, len(x)),
            "optimised": _of_times(fast, len(x)), "ratio": [middle, low, high],
            "yardstick_gflops": gflops(times["yardstick"].median)}, ""


def _of_times(times: Times, batch: int) -> dict[str, Any]:
    """Seconds of a call with quartiles, and images a second of the median."""
    low, high = (times.median,) * 2 if len(times.seconds) < 2 else \
        statistics.quantiles(times.seconds, n=4, method="inclusive")[::2]
    return {"seconds": times.median, "quartiles": [low, high], "images_a_second": batch / times.median}


def _images(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))


def _parts(model: nn.Module) -> int:
    """How many parts do something."""
    return sum(not isinstance(part, nn.Identity) for part in model.modules())


def _end_with_parent() -> None:
    """Ends this process when the other end of its standard input has gone."""
    def watch() -> None:
        while os.read(0, 1 << 16):
            pass
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def _asked() -> dict[str, Any]:
    """The line that says what to measure, read without taking what follows it."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            raise SystemExit(1)
        line += byte
    asked: dict[str, Any] = json.loads(line)
    return asked


if __name__ == "__main__":
    job = _asked()
    _end_with_parent()
    if threads := job.pop("threads"):
        torch.set_num_threads(threads)
    job["limit_gb"] = job["limit_gb"] or math.inf
    print("\n" + json.dumps(measure(**job)), flush=True)
    sys.stdout.flush()
    os._exit(0)                                             # nothing is left to be cleared up, and much to be freed
