"""Processes that answer questions: for what must not share a process, such as engines with thread pools of their own.

A worker runs a module whose `__main__` calls `serve`. Both sides speak a line of JSON at a time. A worker ends when
whoever started it closes it, or has gone, whatever it is doing at that moment.
"""
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import vitrail
from vitrail.core.errors import VitrailError

Answer = dict[str, Any]
Start = Callable[[Answer], tuple[Answer, Callable[[Answer], Answer]]]


class Refused(VitrailError):
    """A worker that runs, and says why it cannot do what it was asked."""


class Worker:
    """`python -m MODULE` with a job. `ask` it; leaving the `with` ends it."""

    def __init__(self, name: str, module: str, job: Mapping[str, Any]):
        self.name = name
        root = str(Path(vitrail.__file__).parents[1])                   # where this vitrail is, however it was found
        paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        self._said = tempfile.TemporaryFile()                           # noqa: SIM115, it lives as long as the process
        # a session of its own: Ctrl-C goes to whoever started it, who ends it in order
        self._process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._said, env={**os.environ, "PYTHONPATH": paths},
                                         start_new_session=True)
        self.started = self._asked(job)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: Mapping[str, Any]) -> Answer:
        """Its answer. Raises Refused with its reason, VitrailError where the process has ended."""
        return self._asked(question)

    def _asked(self, question: Mapping[str, Any]) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):                  # it has ended: the missing answer tells why
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line.endswith(b"\n"):
                raise VitrailError(f"{self.name}: {self._ending()}")
        except BaseException:
            self.close()
            raise
        answer: Answer = json.loads(line)
        if "refused" in answer:
            self.close()
            raise Refused(answer["refused"])
        return answer

    def _ending(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        last = (self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        if code >= 0:
            return f"its process ended with code {code}: {last[:300]}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"its process was ended by {name}" + (", as systems do that run out of memory" if code == -9 else "")

    def close(self) -> None:
        """Ends the process and waits until it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            with contextlib.suppress(OSError):                          # what it never read
                if stream is not None:
                    stream.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def serve(start: Start) -> None:
    """The worker's side: `start` takes the job and gives a first answer and what answers each further question. An
    exception of theirs is an answer too, and the last."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)                                                       # what libraries print is no answer
    questions: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()

    def tell(answer: Answer) -> None:
        print(json.dumps(answer), file=out, flush=True)
    try:
        told, answer = start(questions.get())
        tell(told)
        while True:
            tell(answer(questions.get()))
    except Exception as e:
        text = str(e) if isinstance(e, VitrailError) else f"{type(e).__name__}: {e}"
        tell({"refused": " ".join(text.split())[:400]})
        raise                                                           # its trace goes to standard error


def _listen(questions: "queue.SimpleQueue[Answer]") -> None:
    """Passes on what is asked; ends the process when nobody is left to ask."""
    with open(0, "rb", closefd=False) as lines:
        for line in lines:
            questions.put(json.loads(line))
    os._exit(1)


def pin(threads: int) -> list[int]:
    """Binds this process to as many of the processors that it may use; those it may use afterwards, as far as the
    system tells. A library that starts later makes its threads there."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    allowed = sorted(os.sched_getaffinity(0))
    if threads < len(allowed):
        os.sched_setaffinity(0, allowed[:threads])
    return sorted(os.sched_getaffinity(0))
