"""What a recipe logs while it works: lines on standard error, by one process."""
import contextlib
import os
import sys


def lead() -> bool:
    """Whether this is the first of the processes that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def log(text: str) -> None:
    """A line on standard error, by the first process."""
    if lead():
        with contextlib.suppress(OSError, ValueError):              # nobody reads on: no reason to stop
            print(text, file=sys.stderr, flush=True)
