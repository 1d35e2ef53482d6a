"""A model that is rewritten when it meets its first batch."""
from typing import Any

from torch import Tensor, nn

from vitrail.deploy.optimize import Optimised, Precision, optimize


class LazyOptimised(nn.Module):
    """A model that `optimize` rewrites for the first batch, which calibrates int8 too. Smaller batches, such as the
    last
    one of a folder, are filled up to its size: another plan would take longer.

    Raises ExportError at the first batch where `optimize` refuses.
    """

    def __init__(self, model: nn.Module, precision: Precision):
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)
        self.precision = precision
        self.optimised: Optimised | None = None

    def forward(self, *inputs: Tensor) -> Any:
        if self.optimised is None:
            self.optimised = optimize(self.model, inputs, precision=self.precision)
        return self.optimised.in_parts(*inputs)
