"""What a model costs on this machine: parameters, operations, the time of a forward pass."""
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.core.results import Tile
from vitrail.core.task import Task

ROUNDS = 9
WARM_UP = 2


@dataclass(frozen=True)
class Cost:
    """tiles: for the head of the report. rows: the table below it, each a name, a value and a note."""

    tiles: tuple[Tile, ...]
    rows: tuple[dict[str, str], ...]


def cost_of(model: Any, task: Task) -> Cost:
    """Measured on the processor now, on the task's example inputs."""
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in model.parameters())
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(*_leaves(task.example_inputs(model.config, 1)))
    operations = f"{counter.get_total_flops() / 2e9:.3f} G"
    rows = [{"name": "parameters", "value": f"{parameters:,}", "note": ""},
            {"name": "multiply-adds", "value": operations,
             "note": "of one sample: convolutions, products and attention"}]
    times = {}
    for batch in (1, 8):
        times[batch] = f"{1e3 * _seconds(model, task, batch) / batch:.2f} ms"
        rows.append({"name": f"forward pass, batch {batch}", "value": times[batch],
                     "note": f"a sample; median of {ROUNDS - WARM_UP} on the processor, threads: "
                             f"{torch.get_num_threads()}"})
    tiles = (Tile(name="parameters", value=f"{parameters:,}", note=f"{operations} multiply-adds"),
             Tile(name="one sample", value=times[1], note="batch 1, this machine"))
    return Cost(tiles, tuple(rows))


def _leaves(inputs: Any) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def _seconds(model: Any, task: Task, batch: int) -> float:
    leaves = _leaves(task.example_inputs(model.config, batch))
    times = []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            model(*leaves)
            times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])
