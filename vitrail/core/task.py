"""What a task declares of itself: data and functions, from which every verb works. Imports no torch.

A task of vitrail's own is a package below `vitrail.tasks` whose `__init__` holds a `TASK`; a user's own is handed to
`register_task`, from Python or from a file that `--plugin` names.
"""
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vitrail.core import catalogue
from vitrail.core.errors import ModelError, VitrailError, did_you_mean
from vitrail.core.lazy import Lazy
from vitrail.core.score import Metric


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a verb runs a model, whatever the task.

    batch: samples at a time. on_error: "stop" raises at the first sample that cannot be read, "skip" lists it.
    top: answers to a sample, where a task ranks them. seed: of resampling and of what is drawn.
    """

    batch: int = 32
    workers: int = 0
    device: Any = "cpu"
    on_error: str = "stop"
    top: int = 5
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """A learning problem, as the verbs know it. Functions may be `Lazy`, so that a declaration imports nothing.

    name, about: what `vitrail list --task` shows. kinds: other names by which models say that they are of this task.
    takes:     what the words of a command are that name a model's inputs: files and folders, or texts.
    metrics:   every score by its name. headline: the one that chooses the best checkpoint.
    settings:  the dataclass of what `vitrail train` is told (a `Checked`; imports no torch).
    spec:      the class of what a saved model remembers, with `to_json` and `from_json`.
    make_spec: (variant, arguments, release, **options) -> spec, of a new model; spec_options names its options, which
               `create_model` takes beside the constructor's arguments.
    build:     (config, network) -> the model, a module with a `config`.
    check:     (settings) -> None; raises what can be known to be wrong before any data are read.
    splits:    (settings) -> Splits: the data to learn from and those held out.
    summary:   (settings, splits) -> what is trained on what, in a line.
    open:      (text, options, spec, split) -> a Dataset, for a model of this spec; one split of it where named.
    objective: (settings, splits) -> Objective, for the training loop.
    evaluate:  (model, dataset, options) -> Evaluation.
    example_inputs: (config, batch, size) -> the model's inputs: for cost, export, optimisation, contracts.

    input_name, output_name: what exported files call the input and the output, where each is one tensor; the tensors
               of a structure are called by its fields.
    comparison: defaults of `vitrail compare` for its small data, by part: {"training": {"epochs": 15}}.

    What not every task can do is None where it cannot; `require` then says which tasks can.
    predict:   (model, inputs, options) -> an iterator of Predictions.
    generate:  (model, prompts, options) -> an iterator of Predictions.
    explain:   (model, subject, **options) -> an Explanation, or a TokenExplanation, of one input.
    score:     (output, target) -> (B,), what an explanation explains.
    targets:   (model, output, target) -> (numbers (B,), their names, probabilities (B,)): what is asked about, and the
               likeliest where the target is None.
    reads:     (output, target) -> the set of tokens that the target is read off, and its number in it, where a decoder
               with queries stands before the answer.
    agreement: (output, other output) -> the share of samples with the same answer.
    read_inputs: (config, data, most, size) -> real inputs, prepared: for verification and calibration.
    """

    name: str
    about: str
    metrics: Mapping[str, Metric]
    headline: str
    settings: Any
    spec: Any
    make_spec: Callable[..., Any]
    build: Callable[..., Any]
    splits: Callable[..., Any]
    open: Callable[..., Any]
    objective: Callable[..., Any]
    evaluate: Callable[..., Any]
    example_inputs: Callable[..., Any]
    spec_options: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    takes: Literal["files", "text"] = "files"
    check: Callable[..., None] = lambda settings: None
    summary: Callable[..., str] = lambda settings, splits: (
        f"{settings.model.name} on {settings.data.source}: {len(splits.train):,} samples to learn from, "
        f"{len(splits.val):,} held out")
    input_name: str = "input"
    output_name: str = "output"
    comparison: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    predict: Callable[..., Any] | None = None
    generate: Callable[..., Any] | None = None
    explain: Callable[..., Any] | None = None
    score: Callable[..., Any] | None = None
    targets: Callable[..., Any] | None = None
    reads: Callable[..., tuple[str, int]] | None = None
    agreement: Callable[..., float] | None = None
    read_inputs: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.headline not in self.metrics:
            raise ModelError(f"the task {self.name!r} has the headline {self.headline!r}, and its metrics are "
                             f"{', '.join(self.metrics)}")

    @property
    def settings_type(self) -> Any:
        """The class of the settings itself."""
        return self.settings.target if isinstance(self.settings, Lazy) else self.settings

    def metric(self, name: str) -> Metric:
        """How a score is called; one that was not declared is called by its name."""
        return self.metrics.get(name, Metric(label=name))

    def require(self, verb: str) -> Callable[..., Any]:
        """The function for a verb. Raises ModelError, naming the tasks that can, where this task has none."""
        function: Callable[..., Any] | None = getattr(self, verb)
        if function is None:
            able = [name for name in task_names() if getattr(find_task(name), verb) is not None]
            raise ModelError(f"models for {self.name} cannot be asked to {verb.replace('_', ' ')}; models for "
                             f"{', '.join(able) or 'no task here'} can")
        return function


_REGISTERED: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Makes a task of your own known to every verb, for the rest of the process.

    Raises VitrailError where another task has its name. The same declaration may be registered again.
    """
    other = _tasks().get(task.name)
    if other is not None and other is not task and task.name not in _REGISTERED:
        raise VitrailError(f"there is a task {task.name!r} already, which is vitrail's own: give yours another name")
    _REGISTERED[task.name] = task
    return task


@functools.cache
def _bundled() -> Mapping[str, Task]:
    """The tasks of the packages below `vitrail.tasks`."""
    package = importlib.import_module("vitrail.tasks")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)
    tasks = [importlib.import_module(f"vitrail.tasks.{name}").TASK for name in names]
    return {task.name: task for task in tasks}


def _tasks() -> Mapping[str, Task]:
    return {**_bundled(), **_REGISTERED}


def task_names() -> tuple[str, ...]:
    """The names of all tasks, those that were registered included."""
    return tuple(_tasks())


def find_task(name: str) -> Task:
    """A task by its name, or by one of its kinds. Raises ModelError, naming the nearest, where there is none.

    >>> find_task("translation").name == find_task("causal").name
    True
    """
    tasks = _tasks()
    if name in tasks:
        return tasks[name]
    for task in tasks.values():
        if name in task.kinds:
            return task
    raise ModelError(f"there is no task {name!r}.{did_you_mean(name, tasks)} There are: {', '.join(tasks)}. A task of "
                     "your own must be registered first (vitrail.register_task, or --plugin FILE.py)")


def task_for(model: str, name: str = "") -> Task:
    """The task that a model of this name is trained for: the one asked for, or the first that the catalogue names.

    Raises ModelError where there is no such model, or no such task.
    """
    return find_task(name or catalogue.find(model, "backbone", "foundation").tasks[0])


def task_of(config: Any) -> Task:
    """The task of a model's config."""
    return find_task(config.task)
