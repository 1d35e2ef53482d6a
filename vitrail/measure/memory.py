"""The peak of what a call allocates, exactly and repeatably: every allocation is counted, kernels' own included."""
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that `call` held on the CPU at one time, beyond what was held before it.

    Read off the allocator's own events, in order of time, so it does not depend on what the system or other
    processes do. The call is made twice: what is made once and kept, such as cached constants, is not counted.
    """
    call()
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _mute():                                                   # it announces its start and end on standard error
        profiler.start()
    try:
        kept = call()
    finally:
        with _mute():
            profiler.stop()
    del kept
    recorded: Any = profiler.profiler
    held = peak = 0
    events = [e for e in recorded.kineto_results.events()
              if e.name() == "[memory]" and e.device_type() == torch.autograd.DeviceType.CPU]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def _mute() -> Iterator[None]:
    """Within: what code below Python writes to standard error goes nowhere."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:                                                 # there is none
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
