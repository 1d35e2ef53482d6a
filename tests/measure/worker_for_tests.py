"""A worker that does what its job says."""
import os
import signal
import sys
import time
from typing import Any

from vitrail.core.errors import ModelError
from vitrail.measure.workers import pin, serve


def start(job: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    print("what a library prints")
    print("and complains of", file=sys.stderr)
    if job["do"] == "refuse":
        raise ModelError("it has no such model")
    if job["do"] == "exit":
        os._exit(3)
    if job["do"] == "sleep":
        time.sleep(600)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        print("more of it")
        if question.get("do") == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"twice": 2 * question["number"]}
    return {"pid": os.getpid(), "processors": pin(1)}, answer


if __name__ == "__main__":
    serve(start)
