"""The classifier: a backbone and what reads the answer off its features."""
from torch import Tensor, nn

from vitrail.core.config import ModelConfig


class Classifier(nn.Module):
    """image (B, 3, H, W), normalised -> logits (B, classes), alike in training and evaluation.

    `identity` says what the model is, which labels it knows and how an image must be prepared for it.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, config: ModelConfig):
        super().__init__()
        self.backbone, self.head, self.config = backbone, head, config

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image))
