"""A model that is rewritten when it meets its first images."""
import torch
from torch import Tensor

from vitrail.deploy.optimize import Optimised, Precision, optimize
from vitrail.tasks.classification.model import Classifier


class Later(Classifier):
    """A classifier that `optimize` rewrites for the first batch, which calibrates int8 too. Smaller batches, such as
    the last one of a folder, are filled up to its size: another plan would take longer.

    Raises ExportError at the first batch where `optimize` refuses.
    """

    def __init__(self, model: Classifier, precision: Precision):
        super().__init__(model.backbone, model.head, model.identity)
        self.precision = precision
        self.made: Optimised | None = None

    def forward(self, image: Tensor) -> Tensor:
        if self.made is None:
            plain = Classifier(self.backbone, self.head, self.identity)
            self.made, self._shape = optimize(plain, image, precision=self.precision), image.shape
        short = self._shape[0] - image.shape[0]
        if short <= 0 or image.shape[1:] != self._shape[1:]:
            return self.made(image)
        return self.made(torch.cat([image, image[:1].expand(short, -1, -1, -1)]))[:-short]
