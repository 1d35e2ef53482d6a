"""A line of the parity tables."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vitrail.core.torchvision_guard import import_torchvision


def _logits(model: nn.Module, image: Tensor) -> Tensor:
    out = model(image)
    assert isinstance(out, Tensor)
    return out


@dataclass(frozen=True, kw_only=True)
class Case:
    """One variant against one reference, at several sizes.

    reference: builds the reference for an image of this height and width.
    at:        arguments of ours that follow from the size, where the form needs them at construction.
    changes:   arguments of ours that both sides share (a depth that fits into a test, say).
    drop:      tensors of the reference that carry nothing (buffers that follow from sizes).
    """

    name: str
    reference: Callable[[int, int], nn.Module]
    sizes: tuple[tuple[int, int], ...]
    keys: str = "timm"
    changes: Mapping[str, Any] = field(default_factory=dict)
    at: Callable[[int, int], dict[str, Any]] = lambda height, width: {}
    drop: tuple[str, ...] = ()
    output: Callable[[nn.Module, Tensor], Tensor] = _logits

    def state(self, reference: nn.Module) -> dict[str, Tensor]:
        return {k: v for k, v in reference.state_dict().items() if not k.endswith(self.drop or ("\0",))}

    def __str__(self) -> str:
        return "-".join([self.name, self.keys, *(f"{k}{v}" for k, v in self.changes.items())])


def timm_model(name: str, **changes: Any) -> nn.Module:
    """A model of timm, without released weights."""
    import_torchvision()
    import timm
    model = timm.create_model(name, pretrained=False, **changes)
    assert isinstance(model, nn.Module)
    return model
