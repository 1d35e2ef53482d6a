"""A step that went wrong, in words: what, where, and what to do."""
import math
from collections.abc import Sequence
from typing import NoReturn

import torch

from vitrail.core.errors import TrainingError, VitrailError

_LOST = ("Connection closed by peer", "Connection reset", "Connection refused", "Broken pipe", "Timed out waiting",
         "timed out", "gloo", "NCCL", "DistBackendError")


def diverged(loss: float, norm: float, *, step: int, suspects: Sequence[str], elsewhere: bool) -> NoReturn:
    """Raises TrainingError for a loss or a gradient that is not a number, before the weights are touched.

    suspects: the samples of this process that may be the cause; elsewhere: they are another process's.
    """
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    shown = ", ".join(suspects[:16]) + (f" and {len(suspects) - 16} more" if len(suspects) > 16 else "")
    whose = "The samples belong to another process; see its message." if elsewhere else f"Samples: {shown}."
    raise TrainingError(f"step {step}: {what}. {whose} The weights were not changed and the last checkpoint is intact. "
                        "Look at these samples, or try a lower lr, a longer warmup or a smaller clip.")


def explained(error: Exception, *, step: int, compiled: bool, world: int) -> VitrailError | None:
    """What the user can do about an error of torch; None where it is none that is known."""
    first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return TrainingError(f"step {step}: out of memory ({first}). Give a smaller batch, accumulate, checkpointing, "
                             "or precision bf16.")
    if "deterministic" in str(error) and "use_deterministic_algorithms" in str(error):
        return TrainingError(f"step {step}: {first} Give deterministic = false to train without that promise.")
    if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch")):
        return TrainingError(f"this network and its loss cannot be compiled as one ({type(error).__name__}: {first}). "
                             "Give compile = false.")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return TrainingError(f"step {step}: a process that reads samples was lost ({first}), for want of memory? "
                             "Give fewer workers, and run the same command again: it goes on from the last checkpoint.")
    if world > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST):
        return TrainingError(f"step {step}: another process of this run was lost ({first}). "
                             "Start the same command again: it goes on from the last checkpoint.")
    return None
