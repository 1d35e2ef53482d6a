"""The learning rate as a pure function of the step, so that there is nothing to restore."""
import math


def learning_rate(step: int, *, total: int, warmup: int, lr: float, min_lr: float) -> float:
    """Linear from lr / warmup to lr over `warmup` steps, then a cosine that reaches min_lr at step `total`."""
    if step < warmup:
        return lr * (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
