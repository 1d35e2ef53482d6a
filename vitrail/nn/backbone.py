"""What every backbone is to the code around it."""
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from vitrail.nn.features import Features


@runtime_checkable
class Backbone(Protocol):
    """A network that makes maps of an image, and knows how its paper reads a class off them.

    image (B, in_chans, H, W) -> maps (B, ⌈H/s⌉, ⌈W/s⌉, C), one for each stride s of `strides` with the C of `channels`
    beside it, from fine to coarse. The papers' files write (B, 3, H, W), for the default of `in_chans`. Whatever a
    module inherits from, it is a backbone where it has these parts::

        assert isinstance(create_model("swin_t").backbone, Backbone)
    """

    channels: tuple[int, ...]       # of each map, from fine to coarse
    strides: tuple[int, ...]        # pixels from one place of each map to the next

    def forward(self, image: Tensor) -> Features: ...

    def make_head(self, classes: int) -> nn.Module:
        """What stands behind it in a classifier: Features -> (B, classes)."""
        ...


@runtime_checkable
class AdaptableStem(Protocol):
    """A backbone whose first layers take another number of channels by adapting their weights alone (`nn.stem`).

    stem_weights: the names, in its state dict, of the tensors (out, in_chans, ...) that read the image. Nothing
    between the image and these layers may mix or weigh its channels.
    """

    stem_weights: tuple[str, ...]
