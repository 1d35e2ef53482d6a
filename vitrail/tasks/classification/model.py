"""The classifier: a backbone and the head that reads the answer off its features."""
from typing import Any

from torch import Tensor, nn

from vitrail.core.config import ModelConfig


class Classifier(nn.Module):
    """image (B, 3, H, W), normalised -> logits (B, classes), alike in training and evaluation.

    `config` says what the model is, which classes it knows and how an image must be prepared for it.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, config: ModelConfig):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.config = config

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image))


def build(config: ModelConfig, network: Any) -> Classifier:
    """A classifier on a backbone."""
    return Classifier(network, network.make_head(config.spec.classes), config)
