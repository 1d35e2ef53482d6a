"""What a run is told: every setting with its range. Imports no torch."""
from dataclasses import dataclass, field
from typing import Literal

from vitrail.core.errors import SettingsError
from vitrail.core.settings import Checked, part, setting
from vitrail.data.settings import DataSettings
from vitrail.training.model_settings import ModelSettings


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Checked):
    """How to train, whatever is trained. Raises SettingsError for a value out of its range.

    `batch` is the number of samples of one optimizer step, over all processes and micro-batches.
    """

    out: str = field(metadata={"free": True, "help": "the run's folder"})
    seed: int = setting(0, low=0, below=2**63, help="of weights, order, augmentation and dropout")
    epochs: int = setting(100, low=1, high=1_000_000, help="times through the training data")
    batch: int = setting(64, low=1, high=1 << 24, help="samples a step, over all processes")
    accumulate: int = setting(1, low=1, high=1 << 20, free=True, help="micro-batches a step, one after the other")
    lr: float = setting(1e-3, above=0, high=100, help="the highest learning rate")
    min_lr: float = setting(1e-6, low=0, high=100, help="the learning rate at the end of the cosine")
    warmup: float | None = setting(None, low=0, high=1_000_000,
                                   help="epochs of linear warm-up; left out: a tenth of all, at most 5")
    schedule: Literal["cosine", "step", "constant"] = field(default="cosine", metadata={
        "help": "of the learning rate, behind the warm-up"})
    lr_steps: tuple[float, ...] = setting((), above=0, high=1_000_000, help="of step: epochs at which it drops")
    lr_gamma: float = setting(0.1, above=0, below=1, help="of step: the factor of each drop")
    lr_factors: tuple[str, ...] = setting((), metavar="NAME=X", help="factors by part: 'backbone.*=0.1'")
    freeze: tuple[str, ...] = setting((), metavar="NAME", help="what does not learn: 'backbone.*'")
    patience: int = setting(0, low=0, high=1_000_000, help="evaluations without a better score that end the "
                                                             "run; 0: none")
    optimizer: Literal["adamw", "sgd", "lars"] = field(default="adamw", metadata={"help": "how steps are taken"})
    weight_decay: float = setting(0.05, low=0, high=10, help="not of biases, norms and positions")
    betas: tuple[float, float] = setting((0.9, 0.999), low=0, below=1, help="of AdamW")
    momentum: float = setting(0.9, low=0, below=1, help="of SGD and LARS")
    nesterov: bool = field(default=False, metadata={"help": "of SGD: the momentum looks ahead"})
    clip: float = setting(1.0, low=0, below=float("inf"), help="the largest norm of the gradient; 0: no clipping")
    layer_decay: float = setting(1.0, above=0, high=1, help="factor on the learning rate, each layer down")
    ema: float = setting(0.0, low=0, below=1, help="decay of the moving average of the weights; 0: none")
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata={"help": "bf16: autocast"})
    compile: bool = field(default=False, metadata={"help": "torch.compile of the whole step, or an error"})
    checkpointing: bool = field(default=False, metadata={"free": True, "help": "activations computed again, not kept"})
    workers: int = setting(0, low=0, high=1024, free=True, help="processes that read samples")
    device: str = field(default="auto", metadata={"free": True, "help": "auto, cpu, cuda, cuda:1, mps"})
    strategy: Literal["auto", "single", "ddp", "fsdp"] = field(default="auto", metadata={
        "free": True, "help": "under torchrun: ddp copies the model, fsdp shares it out; auto: ddp"})
    save_every: int = setting(0, low=0, high=1 << 40, free=True, help="steps between checkpoints; 0: one an epoch")
    keep: int = setting(2, low=1, high=1 << 20, free=True, help="newest checkpoints kept, beside the best")
    evaluate_every: int = setting(1, low=1, high=1_000_000, help="epochs between evaluations")
    finish: Literal["best", "last"] = field(default="best", metadata={"help": "whose weights the finished model gets"})
    log_every: int = setting(10, low=1, high=1 << 40, free=True, help="steps between lines of the log")
    deterministic: bool = field(default=True, metadata={"help": "only algorithms that give the same bits each time"})
    threads: int = setting(0, low=0, high=4096, free=True, help="of the processor; 0: torch's choice")
    resume: Literal["auto", "never", "must"] = field(default="auto", metadata={
        "free": True, "help": "a run that is there: auto goes on with it, never refuses it, must demands it"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out.strip() or "\0" in self.out:
            raise SettingsError(f"the setting 'out' is {self.out!r}, and must name a folder")
        if self.min_lr > self.lr:
            raise SettingsError(f"the setting 'min_lr' is {self.min_lr!r}, and must be at most lr, {self.lr!r}")
        if self.warmup is None:
            object.__setattr__(self, "warmup", min(self.epochs / 10, 5.0))
        elif self.warmup > self.epochs:
            raise SettingsError(f"the setting 'warmup' is {self.warmup!r}, and must be at most epochs, {self.epochs}")
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise SettingsError("the setting 'nesterov' is of SGD with a momentum: optimizer is "
                                f"{self.optimizer!r}, momentum {self.momentum}")
        if bool(self.lr_steps) != (self.schedule == "step"):
            raise SettingsError(f"the setting 'lr_steps' is {self.lr_steps!r}, and goes with schedule 'step', which is "
                                f"{self.schedule!r} here")
        _ = self.factors                                        # each is NAME=X, or an error
        if self.batch % self.accumulate:
            raise SettingsError(f"the setting 'accumulate' is {self.accumulate}, and must divide batch, {self.batch}")

    @property
    def factors(self) -> dict[str, float]:
        """Factors on the learning rate by patterns of parameters' names. Raises SettingsError for what is not one."""
        factors: dict[str, float] = {}
        for text in self.lr_factors:
            name, equals, number = text.partition("=")
            try:
                factors[name] = float(number)
            except ValueError:
                equals = ""
            if not equals or not name or not 0 <= factors[name] <= 1000:
                raise SettingsError(f"the setting 'lr_factors' holds {text!r}, and takes NAME=X with X from 0 to 1000, "
                                    "such as backbone.*=0.1")
        return factors


@dataclass(frozen=True, kw_only=True)
class RunSettings(Checked):
    """What a run is told: how to train, and beside it a part for each subject of its task.

    Files of runs before 0.2 hold flat settings under the names on the left.
    """

    RENAMED = {"change": ("set", "0.2"), "held_out": ("val", "0.2"), "fraction": ("val_fraction", "0.2")}

    task: str = setting("", free=True, help="what the model learns to do; left out: what it is made for")
    model: ModelSettings = part(ModelSettings)
    data: DataSettings = part(DataSettings)
    training: TrainSettings = part(TrainSettings)

    @property
    def out(self) -> str:
        """The run's folder."""
        return self.training.out

    @property
    def resume(self) -> str:
        """What becomes of a run that is there."""
        return self.training.resume
