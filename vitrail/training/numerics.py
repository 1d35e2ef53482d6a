"""How torch computes during a run: threads, and repeatability."""
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from vitrail.training.settings import TrainSettings

_memory: Any = torch.utils.deterministic      # a module that is its own settings, which its types do not show


@contextlib.contextmanager
def numerics(settings: TrainSettings) -> Iterator[None]:
    """Within: the threads and the repeatability that the settings ask for; after: what was before."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled, tuned = _memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(settings.deterministic)
    _memory.fill_uninitialized_memory = False         # guards against bugs of ours, and costs time
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        _memory.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = tuned
