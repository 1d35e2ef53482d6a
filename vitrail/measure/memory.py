"""The peak of what a call allocates, exactly and repeatably: every allocation is counted, kernels' own included."""
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that `call` held on the CPU at one time, beyond what was held before it.

    Read off the allocator's own events, in order of time, so it does not depend on what the system or other
    processes do. On CUDA use torch.cuda.max_memory_allocated.
    """
    call()                                                          # what is made once (cached constants) stays out
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = call()
    del kept
    result = seen.profiler.kineto_results
    held = peak = 0
    events = [e for e in result.events() if e.name() == "[memory]" and e.device_type() == torch.autograd.DeviceType.CPU]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
