"""The learning rate as a pure function of the step, so that there is nothing to restore."""
import math
from collections.abc import Sequence


def learning_rate(step: int, *, total: int, warmup: int, lr: float, min_lr: float, schedule: str = "cosine",
                  drops: Sequence[int] = (), gamma: float = 0.1) -> float:
    """Linear from lr / warmup to lr over `warmup` steps, then by the schedule.

    "cosine" reaches min_lr at step `total`; "step" is multiplied by `gamma` at each of the steps `drops`; "constant"
    stays.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule == "constant":
        return lr
    if schedule == "step":
        return lr * gamma ** sum(step >= drop for drop in drops)
    share = (step - warmup) / max(total - warmup, 1)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
