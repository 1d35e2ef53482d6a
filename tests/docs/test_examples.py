"""What the guide shows works as written: Python runs, commands are read by the real parsers, some of them run."""
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs.conftest import TEST_ALL, heavy
from tests.docs.pages import DOCS, GUIDE, ROOT, Block, blocks, commands
from vitrail.cli import main as cli

NAMES = [str(page.relative_to(ROOT)) for page in GUIDE]
PAPERS = sorted((DOCS / "papers").rglob("*.md"))
LANGUAGES = ("python", "bash", "toml", "text", "csv", "json")


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command of which everything is done but the command itself."""
    command_of = cli._command_of                 # subcommands, such as `bench attention`, come from it too
    with monkeypatch.context() as patch:
        patch.setattr(cli, "_command_of",
                      lambda module: dataclasses.replace(command_of(module), run=lambda settings, *, json: 0))
        return cli.main(words)


def execute(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of a page, in order, in the working directory: files are written, Python and marked commands run."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.title:
            Path(block.title).write_text(block.body, encoding="utf-8")
        elif block.language == "python":
            code = compile(block.body, block.place, "exec")
            if not block.mark.startswith("not run"):
                exec(code, names)
        elif block.language == "bash":
            run = block.mark == "run" or (block.mark == "run slowly" and TEST_ALL)
            for words in commands(block):
                code_of = cli.main(words) if run else parse(words, monkeypatch)
                assert code_of == 0, f"{block.place}: vitrail {' '.join(words)}"


@pytest.mark.parametrize("page", GUIDE, ids=NAMES)
def test_the_guide_does_as_it_says(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(page, monkeypatch)


@pytest.mark.parametrize("page", GUIDE, ids=NAMES)
def test_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language!r}"
        known = block.mark in ("", "run", "run slowly") or block.mark.startswith("not run: ")
        assert known, f"{block.place}: {block.mark!r}"


def test_the_commands_of_the_papers_pages_are_read(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [(block, words) for page in PAPERS for block in blocks(page) if block.language == "bash"
             for words in commands(block)]
    assert len(shown) > 60
    for block, words in shown:
        assert parse(words, monkeypatch) == 0, f"{block.place}: vitrail {' '.join(words)}"


def python_of_papers() -> list[Block]:
    return [block for page in PAPERS for block in blocks(page) if block.language == "python"]


@heavy
@pytest.mark.parametrize("block", python_of_papers(), ids=lambda block: block.page.stem)
def test_the_python_of_the_papers_pages_runs(block: Block) -> None:
    with torch.device("meta"), torch.no_grad():             # shapes alone: the largest has a thousand million numbers
        exec(compile(block.body, block.place, "exec"), {})


def test_a_command_that_is_wrong_is_seen(desk: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["train", "--epoch", "3", "--out", "runs/a"], monkeypatch) == 2
    assert parse(["evaluat", "runs/photos"], monkeypatch) == 2
    assert parse(["train", "--data", "photos", "--out", "runs/a"], monkeypatch) == 0
