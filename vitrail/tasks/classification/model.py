"""The classifier: a backbone and what reads the answer off its features."""
from torch import Tensor, nn

from vitrail.core.identity import Identity


class Classifier(nn.Module):
    """image (B, 3, H, W), normalised -> logits (B, classes), alike in training and evaluation.

    `identity` says what the model is, which labels it knows and how an image must be prepared for it.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, identity: Identity):
        super().__init__()
        self.backbone, self.head, self.identity = backbone, head, identity

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image))
