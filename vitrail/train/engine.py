"""One optimizer step, whatever the network, the machine and the number of processes."""
import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from vitrail.core.errors import SettingsError, TrainingError
from vitrail.core.seeds import mix
from vitrail.nn import Stack, share
from vitrail.train import optim, sharded
from vitrail.train.distributed import Place, wrapped
from vitrail.train.ema import Average
from vitrail.train.health import finite
from vitrail.train.settings import TrainSettings
from vitrail.train.task import Step, Task, part
from vitrail.train.tensors import live, moments, whole


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step gave, equal on all processes: mean losses, the norm of the gradient before clipping, and whether
    any process was told to stop."""

    losses: dict[str, float]
    norm: float
    stop: bool


class Engine:
    """The network, its optimizer and its average on this process's device."""

    def __init__(self, task: Task, settings: TrainSettings, place: Place):
        self.task, self.settings, self.place = task, settings, place
        if settings.precision == "bf16" and place.device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise SettingsError("precision = 'bf16', and this device cannot compute in it: give fp32")
        torch.manual_seed(mix(settings.seed, "model"))
        self.model = task.model()
        self.fingerprint = fingerprint(self.model)
        for module in self.model.modules():
            if isinstance(module, Stack):
                module.checkpointing = settings.checkpointing
        self.step = Step(self.model, task)
        self.run: nn.Module = self.step
        if place.strategy == "fsdp":
            sharded.shard(self.step, place)
        else:
            self.step.to(place.device)
        self.average = Average(self.model, settings.ema) if settings.ema else None
        self.adam = optim.optimizer(self.model, lr=settings.lr, weight_decay=settings.weight_decay, betas=settings.betas,
                                    layer_decay=settings.layer_decay)
        if settings.compile:
            self.run = torch.compile(self.step, fullgraph=True)     # a part that falls back to eager is an error
        self.run = wrapped(self.run, place)
        parameters = {id(p) for p in self.model.parameters()}
        self._buffers = [b for b in live(self.model).values() if id(b) not in parameters and b.is_floating_point()]

    def train(self, batch: Any, step: int, lr: float, stop: Callable[[], bool]) -> Outcome:
        """Step number `step`, counted from 0. Raises TrainingError for a loss or gradient that is not a number,
        before the weights are touched."""
        settings, place = self.settings, self.place
        if len(batch) * place.world != settings.batch:
            raise TrainingError(f"step {step}: a training batch of {len(batch)} samples on each of {place.world} processes, and "
                                f"the setting 'batch' is {settings.batch}: the task must leave out what is left of an epoch")
        self.model.train()
        self.adam.zero_grad(set_to_none=True)
        optim.set_rate(self.adam, lr)
        count = settings.accumulate
        sums: dict[str, Tensor] = {}
        bad: list[Any] = []
        for k in range(count):
            micro = part(batch, k, count).to(place.device)
            losses = self._backward(micro, step, k, count)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double() / count
            bad += [micro] * (count > 1 or place.world > 1)
        norm = self._norm()
        names = list(sums)
        mine = torch.stack([sums[n].to(place.device) for n in names])
        shared = torch.cat([mine / place.world, mine.new_tensor([float(stop())])])
        *means, stops = place.sum(shared)
        outcome = Outcome(losses=dict(zip(names, means)), norm=norm, stop=stops > 0)
        self._check(outcome, mine[names.index("loss")].item(), batch, step)
        if settings.clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), settings.clip, self._total)
        self.adam.step()
        place.follow_buffers(self._buffers)
        if self.average is not None:
            self.average.update(step + 1)
        return outcome
