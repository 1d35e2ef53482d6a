"""One optimizer step, whatever the network, the machine and the number of processes."""
import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from vitrail.core.errors import SettingsError, TrainingError, did_you_mean
from vitrail.core.seeds import derive_seed
from vitrail.nn import Stack, share
from vitrail.training import optim, sharded
from vitrail.training.distributed import DistributedContext, wrapped
from vitrail.training.ema import EMA
from vitrail.training.health import diverged
from vitrail.training.products import Widened
from vitrail.training.settings import TrainSettings
from vitrail.training.objective import Phase, Step, Objective, matching, part
from vitrail.training.tensors import live, moments, whole
from vitrail.weights import former_name


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step gave, equal on all processes: mean losses, the norm of the gradient before clipping, and whether
    any process was told to stop."""

    losses: dict[str, float]
    norm: float
    stop: bool


class Engine:
    """The network, its optimizer and its average on this process's device."""

    def __init__(self, objective: Objective, settings: TrainSettings, place: DistributedContext):
        self.objective, self.settings, self.place = objective, settings, place
        if settings.precision == "bf16" and place.device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise SettingsError("precision = 'bf16', and this device cannot compute in it: give fp32")
        torch.manual_seed(derive_seed(settings.seed, "model"))
        self.model = objective.model()
        self._frozen = freeze(self.model, settings.freeze)
        self.fingerprint = fingerprint(self.model)
        self.former_fingerprint = fingerprint(self.model, former_name)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        for module in self.model.modules():
            if isinstance(module, Stack):
                module.checkpointing = settings.checkpointing
        self.step = Step(self.model, objective)
        if place.strategy == "fsdp":
            sharded.shard(self.step, place)
        else:
            self.step.to(place.device)
        self.average = EMA(self.model, settings.ema) if settings.ema else None
        rates: dict[str, float] = getattr(objective, "learning_rates", lambda model: {})(self.model)
        self.optimizer = optim.optimizer(self.model, lr=settings.lr, weight_decay=settings.weight_decay,
                                    betas=settings.betas, layer_decay=settings.layer_decay,
                                    factors={**rates, **settings.factors}, kind=settings.optimizer,
                                    momentum=settings.momentum, nesterov=settings.nesterov)
        if len(self.step.phases) > 1 and place.world > 1:
            raise SettingsError("phases learn in turns within one process, and there are "
                                f"{place.world}: start one")
        self._after_step = getattr(objective, "after_step", None)
        if settings.compile:
            self.step.compile(fullgraph=True, dynamic=False)    # a part that would fall back to eager is an error
        self.call = wrapped(self.step, place)
        self.widened = Widened(self.step, wanted=not settings.compile and settings.precision == "fp32")
        parameters = {id(p) for p in self.model.parameters()}
        self._buffers = [b for b in live(self.model).values() if id(b) not in parameters and b.is_floating_point()]

    def train(self, batch: Any, step: int, lr: float, stop: Callable[[], bool]) -> Outcome:
        """Step number `step`, counted from 0. Raises TrainingError for a loss or gradient that is not a number,
        before the weights are touched."""
        settings, place = self.settings, self.place
        if len(batch) * place.world != settings.batch:
            raise TrainingError(f"step {step}: a batch of {len(batch)} samples on each of {place.world} processes, and "
                                f"the setting 'batch' is {settings.batch}: what is left of an epoch must be left out")
        self.model.train()
        for module in self._frozen:
            module.eval()                                   # statistics of batches stay as they are, too
        optim.set_rate(self.optimizer, lr)
        outcomes = [self._phase(number, batch, step, stop) for number in range(len(self.step.phases))]
        place.follow_buffers(self._buffers)
        if self.average is not None:
            self.average.update(step + 1)
        if self._after_step is not None:
            with torch.no_grad():
                self._after_step(self.model, step + 1)
        return outcomes[0] if len(outcomes) == 1 else self._joined(outcomes)

    def _joined(self, outcomes: list[Outcome]) -> Outcome:
        """What the phases gave: the losses of each by its name, their sum, and the largest norm."""
        losses = {f"{phase.name}/{name}": value for phase, outcome in zip(self.step.phases, outcomes, strict=True)
                  for name, value in outcome.losses.items()}
        return Outcome(losses={"loss": sum(outcome.losses["loss"] for outcome in outcomes), **losses},
                       norm=max(outcome.norm for outcome in outcomes), stop=any(o.stop for o in outcomes))

    def _phase(self, number: int, batch: Any, step: int, stop: Callable[[], bool]) -> Outcome:
        """The part of a step in which one phase's parameters learn."""
        settings, place = self.settings, self.place
        self.optimizer.zero_grad(set_to_none=True)
        count = settings.accumulate
        with learning_alone(self.model, self.step.phases[number], self.step.phases):
            parts = [self._backward(part(batch, k, count).to(place.device), step, k, count, number)
                     for k in range(count)]
        mine = {name: torch.stack([p[name].detach().to(self._exact) for p in parts]).mean() for name in parts[0]}
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        shared = place.sum(torch.stack([*(v / place.world for v in mine.values()), self._number(stop())]))
        *means, stops, size = torch.cat([shared, whole(norm).to(shared)[None]]).tolist()     # the step's one wait
        outcome = Outcome(losses=dict(zip(mine, means, strict=True)), norm=size, stop=stops > 0)
        self._check(outcome, [p["loss"] for p in parts], batch, step)
        if settings.clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), settings.clip, norm)
        self.optimizer.step()
        return outcome

    @torch.no_grad()
    def evaluate(self, step: int, enough: Callable[[], bool]) -> dict[str, float] | None:
        """The objective's scores, of the average where there is one. None where `enough` said so in the middle of it,
        which
        only a process that is alone asks: others would wait for it."""
        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if enough():
                raise _Enough
        self.model.eval()
        torch.manual_seed(derive_seed(self.settings.seed, "evaluate", step))
        hook = self.model.register_forward_pre_hook(look) if self.place.world == 1 else None
        try:
            with self.widened, self.average.applied() if self.average is not None else contextlib.nullcontext():
                return self.step.evaluate(self.place.device, self.place.rank, self.place.world)
        except _Enough:
            return None
        finally:
            if hook is not None:
                hook.remove()

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor that a checkpoint holds, live."""
        return {"model": live(self.model), "optimizer": moments(self.model, self.optimizer),
                "ema": self.average.tensors if self.average is not None else {}}

    def _backward(self, micro: Any, step: int, k: int, count: int, phase: int) -> dict[str, Tensor]:
        """Adds a micro-batch's share of the gradient. Its random draws are those of its place in the whole batch, so
        neither the number of processes nor that of micro-batches changes which samples skip a branch."""
        place, last = self.place, k == count - 1
        alone: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(self.call, DistributedDataParallel) and not last:
            alone = self.call.no_sync()
        if isinstance(self.step, FSDPModule):
            self.step.set_requires_gradient_sync(last)
        torch.manual_seed(derive_seed(self.settings.seed, "step", step))
        with alone, self.widened, share(place.rank * count + k, place.world * count):
            with torch.autocast(place.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                losses: dict[str, Tensor] = self.call(micro, step, phase) if phase else self.call(micro, step)
            (losses["loss"] / count).backward()
        return losses

    def _check(self, outcome: Outcome, losses: list[Tensor], batch: Any, step: int) -> None:
        if math.isfinite(outcome.norm) and math.isfinite(outcome.losses["loss"]):
            return
        count = len(losses)
        wrong = [k for k, loss in enumerate(losses) if not torch.isfinite(loss).all()]
        names = [n for k in wrong or range(count) for n in self.objective.names(part(batch, k, count))]
        diverged(outcome.losses["loss"], outcome.norm, step=step, suspects=names,
                 elsewhere=not wrong and not math.isfinite(outcome.losses["loss"]))

    @property
    def _exact(self) -> torch.dtype:
        return torch.float32 if self.place.device.type == "mps" else torch.float64      # mps knows no other

    def _number(self, value: float) -> Tensor:
        return torch.tensor(float(value), dtype=self._exact, device=self.place.device)


@contextlib.contextmanager
def learning_alone(model: nn.Module, phase: Phase, phases: Sequence[Phase]) -> Iterator[None]:
    """Within: only a phase's parameters learn; where there is one phase, nothing changes."""
    if len(phases) == 1:
        yield
        return
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    alone = set(matching(learning, phase.parameters))
    for name, parameter in learning.items():
        parameter.requires_grad_(name in alone)
    try:
        yield
    finally:
        for parameter in learning.values():
            parameter.requires_grad_(True)


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Parameters whose names fit a pattern do not learn; the parts of which nothing does learn any more.

    Raises SettingsError, naming the nearest, for a pattern that no parameter fits, and where none would be left.
    """
    if not patterns:
        return []
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not matching(parameters, [pattern]):
            raise SettingsError(f"the setting 'freeze' names {pattern!r}, and no parameter is called so."
                                f"{did_you_mean(pattern, parameters)} A pattern such as 'backbone.*' takes all below")
    for name in matching(parameters, patterns):
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise SettingsError(f"the setting 'freeze' is {' '.join(patterns)}, and leaves nothing to learn")
    return [part for part in model.modules()
            if (own := list(part.parameters())) and not any(parameter.requires_grad for parameter in own)]


class _Enough(Exception):
    """An evaluation that was told to stop."""


def fingerprint(model: nn.Module, called: Callable[[str], str] = str) -> str:
    """sha256 over the names, shapes and kinds of number of what a network keeps. called: other names for them."""
    lines = [f"{called(name)} {tuple(t.shape)} {t.dtype} {t.requires_grad}" for name, t in live(model).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
