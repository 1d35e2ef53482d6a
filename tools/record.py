"""Record what official code answers: `python tools/record.py <module> <folder> [<name>]`.

<module> is a file of tests/parity, <folder> a copy of the code that its cases name as their source. The weights are
noise by the tensors' names (vitrail.testing.noise), so that anyone's recording is the same up to rounding.
"""
import importlib
import sys
from pathlib import Path

from tests.parity.case import Recorded

if __name__ == "__main__":
    module, code, *only = sys.argv[1:]
    for case in importlib.import_module(f"tests.parity.{module}").CASES:
        if isinstance(case, Recorded) and (not only or case.name in only):
            for file in case.record(Path(code).resolve()):
                print(f"{case}: {case.source} -> {file.name}", flush=True)
