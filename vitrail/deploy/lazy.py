"""A model that is rewritten when it meets its first images."""
from torch import Tensor

from vitrail.deploy.optimize import Optimised, Precision, optimize
from vitrail.tasks.classification.model import Classifier


class Later(Classifier):
    """A classifier that `optimize` rewrites for the first batch, which calibrates int8 too. Smaller batches, such as
    the last one of a folder, are filled up to its size: another plan would take longer.

    Raises ExportError at the first batch where `optimize` refuses.
    """

    def __init__(self, model: Classifier, precision: Precision):
        super().__init__(model.backbone, model.head, model.config)
        self.precision = precision
        self.made: Optimised | None = None

    def forward(self, image: Tensor) -> Tensor:
        if self.made is None:
            self.made = optimize(Classifier(self.backbone, self.head, self.config), image, precision=self.precision)
        return self.made.in_parts(image)
