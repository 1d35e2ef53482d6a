"""Cross-entropy over targets that are probabilities: plain, smoothed and mixed labels are all of that form."""
import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Whole-number labels (B,) as float32 probabilities (B, classes).

    Label smoothing (Szegedy et al., arXiv:1512.00567, section 7): 1 - s on the label, and s shared evenly by all
    classes, the label's included.
    """
    return smooth(F.one_hot(labels, classes).float(), smoothing)


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Probabilities (B, K) drawn towards the uniform ones by ``smoothing`` in [0, 1]."""
    return targets if smoothing == 0 else targets * (1 - smoothing) + smoothing / targets.shape[-1]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_k q_k log p_k for each sample: logits (B, K) and probabilities (B, K) to (B,).

    Half-precision logits are widened first: a logarithm of a sum of exponentials needs float32.
    """
    return -(targets * wide(logits).log_softmax(-1)).sum(-1)


def wide(logits: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; wider types as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
