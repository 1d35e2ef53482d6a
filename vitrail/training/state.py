"""Where a run stands, apart from its tensors: all of a checkpoint that is no tensor, as JSON."""
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from vitrail.core.errors import CheckpointError

_HUGE = 1 << 53


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best score so far, and the step whose weights had it."""

    step: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What must not change when a run goes on: each is compared on resume."""

    seed: int
    batch: int                      # global
    steps_per_epoch: int
    model: str                      # sha256 of names, shapes and kinds of number
    data: str                       # the task's fingerprint


@dataclass(kw_only=True)
class State:
    """`step` optimizer steps are done; the next one is step `at` of epoch `epoch`.

    evaluated: the last step at which scores were taken, 0 for none. sums, count: losses since the last line of
    the log. layout: "plain" (whole tensors) or "sharded"; world: processes that wrote it.
    """

    step: int = 0
    epoch: int = 0
    at: int = 0
    evaluated: int = 0
    best: Best | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    layout: str = "plain"
    world: int = 1
    averaged: bool = False
    origin: Origin

    def to_json(self) -> dict[str, Any]:
        """A part of the loss that is no number (the loss itself always is one) becomes null."""
        return {**asdict(self), "sums": {k: v if math.isfinite(v) else None for k, v in self.sums.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: Path) -> Self:
        """Raises CheckpointError where something is missing, unknown, or of the wrong kind or size."""
        def fail(what: str) -> CheckpointError:
            return CheckpointError(f"{where} is no state of a run: {what}")

        def pick(source: Any, *names: str) -> Mapping[str, Any]:
            if not isinstance(source, dict) or set(source) != set(names):
                raise fail(f"it does not hold exactly {', '.join(names)}")
            return source

        def whole(source: Mapping[str, Any], name: str, most: int = _HUGE) -> int:
            value = source[name]
            if type(value) is not int or not 0 <= value < most:
                raise fail(f"{name} is {str(value)[:40]}")
            return value

        def number(value: Any, name: str) -> float:
            if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
                raise fail(f"{name} is {str(value)[:40]}")
            return float(value)

        def text(source: Mapping[str, Any], name: str) -> str:
            if not isinstance(source[name], str):
                raise fail(f"{name} is no text")
            return source[name]

        try:
            top = pick(data, *cls.__dataclass_fields__)
            o = pick(top["origin"], *Origin.__dataclass_fields__)
            origin = Origin(seed=whole(o, "seed", 2**63), batch=whole(o, "batch"), model=text(o, "model"),
                            steps_per_epoch=whole(o, "steps_per_epoch"), data=text(o, "data"))
            best = None if top["best"] is None else pick(top["best"], "step", "score")
            if not isinstance(top["scores"], dict) or not isinstance(top["sums"], dict):
                raise fail("its scores are no table")
            state = cls(
                step=whole(top, "step"), epoch=whole(top, "epoch"), at=whole(top, "at"), count=whole(top, "count"),
                evaluated=whole(top, "evaluated"), world=whole(top, "world"), layout=text(top, "layout"),
                best=None if best is None else Best(step=whole(best, "step"), score=number(best["score"], "the best")),
                scores={k: None if v is None else number(v, k) for k, v in top["scores"].items()},
                sums={k: math.nan if v is None else number(v, k) for k, v in top["sums"].items()},
                averaged=top["averaged"], origin=origin)
        except ValueError as e:         # a whole number of more digits than Python prints
            raise fail(str(e)) from None
        if not isinstance(state.averaged, bool) or state.layout not in ("plain", "sharded") \
                or divmod(state.step, max(origin.steps_per_epoch, 1)) != (state.epoch, state.at):
            raise fail("its parts contradict each other")
        return state

    def refuse(self, origin: Origin, averaged: bool, where: Path, former: str = "") -> None:
        """Raises CheckpointError, with the reason, where a run of `origin` cannot go on from here. former: the same
        network's fingerprint by the names that its tensors had."""
        words = {"seed": "another seed", "batch": "another global batch", "model": "another network",
                 "data": "other data (by their fingerprint)", "steps_per_epoch": "another number of steps in an epoch"}
        for name, why in words.items():
            mine, theirs = getattr(origin, name), getattr(self.origin, name)
            if mine != theirs and not (name == "model" and theirs == former):
                raise CheckpointError(f"{where} was written by a run with {why}: {theirs} there, {mine} here. "
                                      "Go on with what it was started with, or train into another folder.")
        if averaged != self.averaged:
            raise CheckpointError(f"{where} was written {'with' if self.averaged else 'without'} an average. "
                                  "Give the `ema` that the run was started with, or train into another folder.")
