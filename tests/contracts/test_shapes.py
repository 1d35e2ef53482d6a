"""Shape comments are executed: a line `x = ...    # (B, N, C)` must hold whenever it runs.

Within one call the names bind once: the same letter is the same number on every line. A line that runs again,
in a loop, binds the names that it brought anew.
"""
import linecache
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from tests.contracts.small import STRUCTURES, build

HOUSE = Path(__file__).parents[2] / "vitrail"
FLOORS = tuple(str(HOUSE / f) for f in ("ops", "nn", "positions", "attention", "backbones", "foundations"))
COMMENT = re.compile(r"^\s*(\*?[A-Za-z_][\w, ()]*?)\s*(?::[^=#]+)?=[^=].*#\s*\(([^()|\[\]*→>]+)\)\s*(?:$|[:,])")


class Checker:
    """A trace function that looks at a line's targets once the line has run."""

    def __init__(self) -> None:
        self.checked: set[tuple[str, int]] = set()
        self.wrong: set[str] = set()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(FLOORS):
            return None
        names: dict[str, tuple[int, int]] = {}
        last: list[int] = []

        def inside(frame: FrameType, event: str, arg: Any) -> Any:
            if last:
                self.check(file, last.pop(), frame.f_locals, names)
            if event == "line":
                last.append(frame.f_lineno)
            return inside
        return inside

    def check(self, file: str, line: int, values: dict[str, Any], names: dict[str, tuple[int, int]]) -> None:
        if not (found := COMMENT.match(linecache.getline(file, line))):
            return
        dims = [d.strip() for d in found[2].split(",")]
        for name in [n for n, (_, by) in names.items() if by == line]:
            del names[name]
        for target in re.findall(r"\w+", found[1]):
            if not isinstance(value := values.get(target), torch.Tensor):
                continue
            self.checked.add((file, line))
            good = len(dims) == value.ndim
            for dim, size in zip(dims, value.shape, strict=False):
                if dim.isdigit():
                    good &= int(dim) == size
                elif dim.isidentifier():
                    good &= names.setdefault(dim, (int(size), line))[0] == size
            if not good:
                self.wrong.add(f"{Path(file).name}:{line}: {target} is {tuple(value.shape)}, not ({found[2]})")


@pytest.mark.parametrize("name", STRUCTURES)
def test_shape_comments_are_true(name: str) -> None:
    model, checker = build(name), Checker()
    image = torch.randn(3, 3, 64, 96)
    before = sys.gettrace()
    sys.settrace(checker)
    try:
        model(image)
    finally:
        sys.settrace(before)
    assert not checker.wrong, "\n".join(sorted(checker.wrong))
    assert any(Path(f).parent.name == "backbones" or Path(f).name == "bodies.py" for f, _ in checker.checked), \
        "no shape comment of the paper ran, nor of the body that it shares with others"


def test_a_lie_is_found(tmp_path: Path) -> None:
    file = str(HOUSE / "nn" / "imagined.py")
    source = "def f(x):\n    y = x.T    # (B, C)\n    z = x + 0    # (B, C)\n    return y\n"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    scope: dict[str, Any] = {}
    exec(compile(source, file, "exec"), scope)
    checker = Checker()
    sys.settrace(checker)
    try:
        scope["f"](torch.zeros(2, 3))
    finally:
        sys.settrace(None)
        del linecache.cache[file]
    assert len(checker.wrong) == 1 and len(checker.checked) == 2
