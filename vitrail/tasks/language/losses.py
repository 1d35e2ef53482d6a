"""What the tasks of text have in common: losses over tokens, and sums to make scores of."""
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from vitrail.tasks.language.vocabulary import PAD


@dataclass(frozen=True)
class TokenLoss:
    """Sums over the tokens of a batch that are expected to be answered."""

    smooth: Tensor                          # the loss, with label smoothing
    nll: Tensor                             # the negative log-likelihood, without
    hits: Tensor                            # how many were answered right

    def means(self, share: Tensor, batch: int) -> dict[str, Tensor]:
        """Divided by the tokens that a part of so many samples has on the average: see `Lines.share`."""
        tokens = (share * batch).clamp_min(1)
        return {"loss": self.smooth / tokens, "nll": self.nll.detach() / tokens, "accuracy": self.hits / tokens}

    def sums(self) -> dict[str, float]:
        return {"nll": float(self.nll), "hits": float(self.hits)}


def token_loss(logits: Tensor, expected: Tensor, smoothing: float = 0.0) -> TokenLoss:
    """logits (B, N, V) against expected (B, N); where PAD is expected, nothing is.

    smoothing: the share of the target that is spread evenly over all of the vocabulary (arXiv:1512.00567, section 7).
    """
    logits, expected = logits.flatten(0, -2).float(), expected.flatten()
    asked = expected != PAD
    logs = logits.log_softmax(-1)
    nll = -logs.gather(1, expected[:, None])[:, 0].masked_fill(~asked, 0).sum()
    spread = -logs.mean(-1).masked_fill(~asked, 0).sum()
    hits = ((logits.detach().argmax(-1) == expected) & asked).sum().float()
    return TokenLoss((1 - smoothing) * nll + smoothing * spread, nll, hits)


def perplexity(nll: float, tokens: float) -> float:
    """exp of the mean negative log-likelihood; infinite where that is too large for a number."""
    return math.exp(nll / tokens) if nll / tokens < 700 else math.inf


def over_processes(sums: dict[str, float], of: int, device: torch.device) -> dict[str, float]:
    """The sums of all processes, equal on all."""
    if of == 1:
        return sums
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))
