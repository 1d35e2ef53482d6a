"""The training loop: any objective, from its first step to its finished model, however often it is stopped."""
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.core.allocator import kept_memory
from vitrail.core.errors import SettingsError, TrainingError, VitrailError
from vitrail.training import facts, restore, sharded
from vitrail.training.checkpoint import Checkpoints, state_of
from vitrail.training.distributed import DistributedContext, joined
from vitrail.training.engine import Engine
from vitrail.training.handover import hand_over
from vitrail.training.health import explained
from vitrail.training.numerics import numerics
from vitrail.training.progress import Reporter
from vitrail.training.run import Run
from vitrail.training.schedule import learning_rate
from vitrail.training.settings import TrainSettings
from vitrail.training.signals import Flag, listening
from vitrail.training.state import Best, Origin, State
from vitrail.training.objective import Objective
from vitrail.training.tensors import size_of


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run: its model's folder, the step whose weights it has, and that step's headline score."""

    folder: Path
    model: Path
    steps: int
    chosen: int
    score: float | None


def fit(objective: Objective, settings: TrainSettings, run: Run) -> Result:
    """Trains to the end, from wherever the run stands; a finished run is left as it is.

    Raises Stopped after a signal, TrainingError where it cannot go on, CheckpointError or SettingsError where the
    run in the folder is another one. In each case the newest checkpoint is whole.
    """
    if (end := run.finished) is None:
        with listening() as flag, joined(settings) as place, numerics(settings), kept_memory():
            end = _Fit(objective, settings, run, place, flag).to_the_end()
    return Result(folder=run.folder, model=run.model, **{k: end[k] for k in ("steps", "chosen", "score")})


class _Fit:
    """One start of one run in one process."""

    def __init__(self, objective: Objective, settings: TrainSettings, run: Run, place: DistributedContext, flag: Flag):
        self.objective, self.settings, self.run, self.place, self.flag = objective, settings, run, place, flag
        self.about = objective.describe()
        self.batches = objective.batches(place.rank, place.world)
        if not (per_epoch := len(self.batches)):
            raise SettingsError(f"the training data do not fill one batch of {settings.batch}: give a smaller batch")
        self.per_epoch, self.total = per_epoch, per_epoch * settings.epochs
        self.report = Reporter(total=self.total, silent=not place.lead)
        self.store = Checkpoints(run.checkpoints, keep=settings.keep, say=self.report.say)
        self.engine = Engine(objective, settings, place)
        self.origin = Origin(seed=settings.seed, batch=settings.batch, steps_per_epoch=per_epoch,
                             model=self.engine.fingerprint, data=str(self.about.get("fingerprint", "")))
        self.report.say(self._opening())
        self.state = self._start()
        self.saved = self.state.step
        self.stop = False

    def to_the_end(self) -> dict[str, Any]:
        batches: Iterator[Any] | None = None
        self.report.start(self.state.step)
        try:
            while True:
                best = self._evaluate() if self._due_evaluation() else False
                stop = self.stop or (self.place.world == 1 and self.flag.number != 0)
                if self.state.step > self.saved and (best or stop or self._due_save()):
                    self._save()
                if stop:
                    raise self.flag.error(f"at step {self.state.step} of {self.total}")
                if self.state.step == self.total or self._patience_ends():
                    return self._finish()
                if batches is None or self.state.at == 0:
                    _close(batches)
                    batches = self.batches.epoch(self.state.epoch, self.state.at)
                self._train(next(batches, None))
        except VitrailError:
            raise
        except Exception as e:
            known = explained(e, step=self.state.step, compiled=self.settings.compile, world=self.place.world)
            if known is None:
                raise
            raise known from e
        finally:
            _close(batches)
            self.report.close()

    def _opening(self) -> str:
        """What will be done, in a line."""
        settings, place = self.settings, self.place
        where = f"{place.world} processes ({place.strategy}), {place.device}" if place.world > 1 else str(place.device)
        slow = "; compiling makes the first step slow" if settings.compile else ""
        epochs = f"{settings.epochs:,} epoch{'s' if settings.epochs > 1 else ''}"
        return (f"{self.engine.parameters:,} parameters in {settings.precision} on {where}: {epochs} of "
                f"{self.per_epoch:,} steps of {settings.batch:,} samples, into {self.run.folder}{slow}")

    def _start(self) -> State:
        """Where the run stands: its tensors are put back, and process 0 has noted the start."""
        fresh = State(origin=self.origin, averaged=bool(self.settings.ema))
        self.run.check(self.about)

        def choose() -> int:
            found = self.store.newest()
            if found is None and self.settings.resume == "must":
                raise SettingsError(f"resume = 'must', and {self.store.folder} holds no whole checkpoint")
            if found is not None:
                found[1].refuse(self.origin, fresh.averaged, found[0], former=self.engine.former_fingerprint)
            elif self.run.record is not None:
                self.report.say("there is no whole checkpoint to go on from: starting at the first step")
            state = found[1] if found else fresh
            session = facts.session(step=state.step, world=self.place.world, strategy=self.place.strategy,
                                    device=self.place.device)
            self.run.begin(self.about, session, step=state.step, evaluated=state.evaluated)
            if found:
                self.store.note_best(state)
                self.report.say(f"going on from step {state.step} of {self.total}")
            return state.step

        if not (step := self.place.first(choose, "finding the checkpoint to go on from")):
            return fresh
        path = self.store.path(step)
        state = state_of(path)
        state.origin = self.origin
        restore.resume(self.engine, path, state)
        return state

    def _train(self, batch: Any) -> None:
        state, settings = self.state, self.settings
        if batch is None:
            raise TrainingError(f"the training data ended at step {state.at} of epoch {state.epoch + 1}, and an epoch "
                                f"was said to have {self.per_epoch}")
        lr = learning_rate(state.step, total=self.total, warmup=round((settings.warmup or 0) * self.per_epoch),
                           lr=settings.lr, min_lr=settings.min_lr, schedule=settings.schedule, gamma=settings.lr_gamma,
                           drops=[round(epochs * self.per_epoch) for epochs in settings.lr_steps])
        outcome = self.engine.train(batch, state.step, lr, lambda: self.flag.number != 0)
        self.stop = outcome.stop
        for name, value in {**outcome.losses, "norm": outcome.norm}.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        epoch = state.epoch + 1
        state.step, state.count = state.step + 1, state.count + 1
        state.epoch, state.at = divmod(state.step, self.per_epoch)
        self.report.step(state.step)
        if state.step % settings.log_every == 0 or state.at == 0:
            means = {name: value / state.count for name, value in state.sums.items()}
            self.run.log("train", state.step, epoch, {**means, "lr": lr, "rate": self.report.rate * settings.batch})
            self.report.line(epoch, settings.epochs, {**means, "lr": lr})
            state.sums, state.count = {}, 0

    def _patience_ends(self) -> bool:
        """Whether so many evaluations in a row were no better: of what a checkpoint holds, so that resume is exact."""
        state, settings = self.state, self.settings
        waited = (state.step - (state.best or state).step) / (self.per_epoch * settings.evaluate_every)
        if not settings.patience or state.evaluated != state.step or waited < settings.patience:
            return False
        self.report.say(f"no better score in {settings.patience} evaluations: the run ends here")
        if state.step > self.saved:
            self._save()
        return True

    def _due_evaluation(self) -> bool:
        state = self.state
        ended = state.step > 0 and state.at == 0
        due = state.epoch % self.settings.evaluate_every == 0 or state.step == self.total
        return ended and due and state.evaluated != state.step

    def _due_save(self) -> bool:
        every = self.settings.save_every
        return self.state.step == self.total or (self.state.step % every == 0 if every else self.state.at == 0)

    def _evaluate(self) -> bool:
        """Takes and notes the scores; whether the headline is better than ever. Cut short by a signal, it notes
        nothing, and is done again when the run goes on."""
        state, began = self.state, time.monotonic()
        scores = self.engine.evaluate(state.step, lambda: self.flag.number != 0)
        if scores is None:
            return False
        if (headline := self.objective.headline) not in scores:
            raise TrainingError(f"the evaluation gave {', '.join(scores)}, and not its headline {headline!r}")
        state.evaluated = state.step
        state.scores = {k: float(v) if math.isfinite(v) else None for k, v in scores.items()}
        self.run.log("eval", state.step, state.epoch, {**scores, "seconds": time.monotonic() - began})
        score, sign = float(scores[headline]), 1 if self.objective.larger_is_better else -1
        better = math.isfinite(score) and (state.best is None or sign * score > sign * state.best.score)
        if better := bool(self.place.first(lambda: int(better), "comparing scores")):
            state.best = Best(step=state.step, score=score)
        best = (state.best.score, state.best.step) if state.best else None
        self.report.score(state.epoch, self.settings.epochs, headline, score, best)
        return better

    def _save(self) -> None:
        place, store, groups = self.place, self.store, self.engine.groups()
        state = replace(self.state, layout="sharded" if place.strategy == "fsdp" else "plain", world=place.world)
        size = sum(size_of(tensors) for tensors in groups.values())

        def begin() -> int:
            self.run.flush()
            store.begin(state, size * place.world)
            return 0

        def commit() -> int:
            store.commit(aside, state)
            return 0

        def save() -> int:
            self.run.flush()
            store.commit(store.fill(state, groups, size), state)
            return 0
        if place.strategy == "fsdp":
            place.first(begin, "making a checkpoint")
            aside = store.aside(state.step)
            try:
                sharded.write(aside, groups)
            except BaseException as e:
                if place.lead:
                    raise store.abandon(aside, e) from e
                raise
            place.first(commit, "writing a checkpoint")
        else:
            place.first(save, "writing a checkpoint")
        self.saved = state.step

    def _finish(self) -> dict[str, Any]:
        """Hands over the best weights, or the last where they are asked for or no score was a number."""
        state, headline = self.state, self.objective.headline
        best = state.best if self.settings.finish == "best" else None

        def save() -> int:
            return hand_over(self.objective, state, best, self.store, self.run, self.settings.seed)
        chosen = self.place.first(save, "saving the finished model")
        score = state.best.score if state.best and chosen == state.best.step else state.scores.get(headline)
        end = {"steps": state.step, "chosen": chosen, "score": score, "scores": state.scores}
        self.run.finish(end)
        return end


def _close(batches: Iterator[Any] | None) -> None:
    """Ends the processes that read ahead, where there are such."""
    if isinstance(batches, Generator):
        batches.close()
