"""A line of the parity tables."""
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.torchvision_guard import import_torchvision
from vitrail.testing.golden import picture, read_golden, write_golden
from vitrail.testing.noise import fill_

GOLDEN = Path(__file__).parents[1] / "golden"


def _logits(model: nn.Module, image: Tensor) -> Tensor:
    out = model(image)
    assert isinstance(out, Tensor)
    return out


def double(model: nn.Module, image: Tensor) -> Tensor:
    """An `output` for a form that noise makes magnify rounding: both sides answer in double precision."""
    return _logits(model.double(), image.double())


def settled(model: nn.Module, image: Tensor) -> Tensor:
    """An `output` of Case, for a form in which noise leaves nothing of the image to see: narrow convolutions and
    activations, one behind the other, each take a part of it. The reference's batch norms first take their running
    statistics from the image itself, as training would have them, and those are carried over with all other tensors."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    _logits(model, image)
    for norm in norms:
        norm.eval()
    return _logits(model, image)


@dataclass(frozen=True)
class Answer:
    """A reference's tensors under its own names, the image it was shown, and what it said of it."""

    state: dict[str, Tensor]
    image: Tensor
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """One variant against one reference that is an installed package, at several sizes.

    reference: builds the reference for an image of this height and width.
    at:        arguments of ours that follow from the size, where the form needs them at construction.
    changes:   arguments of ours that both sides share (a depth that fits into a test, say).
    drop:      tensors of the reference that carry nothing (buffers that follow from sizes).
    centred:   compare how the answers to the images depart from their mean, and measure by that: for a form in which
               noise makes the images a small part of an answer. Needs an `output` in double precision.
    """

    name: str
    reference: Callable[[int, int], nn.Module]
    sizes: tuple[tuple[int, int], ...]
    keys: str = "timm"
    changes: Mapping[str, Any] = field(default_factory=dict)
    at: Callable[[int, int], dict[str, Any]] = lambda height, width: {}
    drop: tuple[str, ...] = ()
    output: Callable[[nn.Module, Tensor], Tensor] = _logits
    centred: bool = False

    def answer(self, height: int, width: int) -> Answer:
        """The reference, filled with noise, and asked."""
        reference = self.reference(height, width).eval()
        fill_(reference, keep=[f"*{name}" for name in self.drop])
        image = picture(height, width)
        with torch.inference_mode():
            state, logits = self.state(reference), self.output(reference, image)
        return Answer(state, image.to(logits.dtype), logits)

    def state(self, reference: nn.Module) -> dict[str, Tensor]:
        return {k: v for k, v in reference.state_dict().items() if not k.endswith(self.drop or ("\0",))}

    def __str__(self) -> str:
        return "-".join([self.name, self.keys, *(f"{k}{v}" for k, v in self.changes.items())])


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One variant against a reference that is no package: what its official code answered stands in a golden file.

    official: builds the reference for an image of this height and width, from a folder that holds a copy of its code.
    source:   owner/repository@commit: file. The rest as for Case.

    `python tools/record.py <module> <folder of the code>` records the files again.
    """

    name: str
    source: str
    official: Callable[[Path, int, int], nn.Module]
    sizes: tuple[tuple[int, int], ...]
    keys: str = "official"
    changes: Mapping[str, Any] = field(default_factory=dict)
    at: Callable[[int, int], dict[str, Any]] = lambda height, width: {}
    drop: tuple[str, ...] = ()
    output: Callable[[nn.Module, Tensor], Tensor] = _logits
    centred: bool = False

    def file(self, height: int, width: int) -> Path:
        """One for all sizes, but where the reference's tensors follow from the size."""
        return GOLDEN / f"{self}{f'-{height}x{width}' if self.at(height, width) else ''}.safetensors".replace(" ", "")

    def record(self, code: Path) -> list[Path]:
        """Asks the official code anew; returns the files written."""
        files: dict[Path, list[tuple[int, int]]] = {}
        for height, width in self.sizes:
            files.setdefault(self.file(height, width), []).append((height, width))
        for file, sizes in files.items():
            outputs: dict[str, Tensor] = {}
            for height, width in sizes:
                reference = self.official(code, height, width).eval()
                fill_(reference, keep=[f"*{name}" for name in self.drop])
                with torch.inference_mode():
                    outputs[f"{height}x{width}"] = self.output(reference, picture(height, width))
            state = {k: v for k, v in reference.state_dict().items() if not k.endswith(self.drop or ("\0",))}
            write_golden(file, inputs={}, outputs=outputs, state=state, source=self.source)
        return list(files)

    def answer(self, height: int, width: int) -> Answer:
        golden = read_golden(self.file(height, width))
        logits = golden.outputs[f"{height}x{width}"]
        return Answer(dict(golden.state), picture(height, width).to(logits.dtype), logits)

    def __str__(self) -> str:
        return "-".join([self.name, self.keys, *(f"{k}{v}" for k, v in self.changes.items())])


def compared(case: Case | Recorded, theirs: Tensor, ours: Tensor) -> tuple[Tensor, Tensor]:
    """What of two answers (B, K) is compared."""
    return (theirs - theirs.mean(0), ours - ours.mean(0)) if case.centred else (theirs, ours)


def timm_model(name: str, **changes: Any) -> nn.Module:
    """A model of timm, without released weights."""
    import_torchvision()
    import timm
    model = timm.create_model(name, pretrained=False, **changes)
    assert isinstance(model, nn.Module)
    return model


def stand_in(name: str, **holds: object) -> None:
    """Puts a module in the place of one that official code imports, and that is not there or no longer as it was."""
    module = ModuleType(name)
    vars(module).update(holds)
    sys.modules[name] = module
