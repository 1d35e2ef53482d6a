"""Pages that quote the code: the API by module, for mkdocstrings to fill in, and every command's own page of help."""
import contextlib
import io
import os
import pkgutil
from pathlib import Path

import vitrail
from vitrail.cli.main import COMMANDS, main

PACKAGE = Path(vitrail.__file__).parent
# what a reader of the code meets, from the top of the house down
PACKAGES = {"models": "Models by name", "weights": "Weights", "tasks": "Tasks", "data": "Data", "training": "Training",
            "explanation": "Explanation", "deploy": "Export and optimisation", "mixers": "Mixers",
            "nn": "Building blocks", "ops": "Functions without parameters", "measure": "Measuring", "core": "Core",
            "testing": "Testing"}


def top() -> str:
    """What `import vitrail` offers: docs/api/index.md."""
    names = [name for name in vitrail.__all__ if name != "__version__"]
    lines = ["# Python", "", "`import vitrail` offers these names; nothing imports torch before one is used.", ""]
    for name in names:
        place = f"{vitrail._PLACES[name]}.{name}"
        lines += [f"::: {place}", "    options:", "      heading_level: 2", "      skip_local_inventory: true", ""]
    pages = [f"- [{heading}]({name}.md)" for name, heading in PACKAGES.items() if exists(name)]
    return "\n".join([*lines, "## By package", "", *pages]) + "\n"


def exists(package: str) -> bool:
    return (PACKAGE / package).is_dir() or (PACKAGE / f"{package}.py").is_file()


def public(package: str) -> list[str]:
    """The modules of a package that hold anything, by dotted name, itself first."""
    if not (PACKAGE / package).is_dir():
        return [f"vitrail.{package}"]
    walked = pkgutil.walk_packages([str(PACKAGE / package)], f"vitrail.{package}.")
    every = [f"vitrail.{package}", *sorted(module.name for module in walked)]
    return [name for name in every if documented(name)]


def documented(module: str) -> bool:
    """Whether a module begins with a docstring; it isn't imported for that."""
    file = PACKAGE.parent / Path(*module.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return file.read_text("utf-8").lstrip().startswith('"""')


def api() -> dict[str, str]:
    """The pages of docs/api, by file name."""
    pages = {"index.md": top()}
    for package, heading in PACKAGES.items():
        if exists(package):
            lines = [f"# {heading}", ""]
            for module in public(package):
                lines += [f"::: {module}", "    options:", "      heading_level: 2", ""]
            pages[f"{package}.md"] = "\n".join(lines).rstrip() + "\n"
    return pages


def help_of(words: list[str]) -> str:
    """What `vitrail WORDS --help` prints, a hundred columns wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            code = main([*words, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    assert code == 0, f"vitrail {' '.join(words)} --help ends with {code}"
    return text.getvalue().strip()


def commands() -> str:
    """Every command's help: docs/commands.md."""
    lines = ["# Every command", "", "What `vitrail COMMAND --help` prints (`python tools/docs.py` copies it). Exit "
             "codes: 0 done; 1 it failed; 2 it was asked wrongly; 70 a mistake in vitrail; 130 and 143 stopped by "
             "Ctrl-C and by SIGTERM.", ""]
    asked = [[name] for name in COMMANDS]
    asked.insert(asked.index(["bench"]) + 1, ["bench", "attention"])
    asked.insert(asked.index(["train"]) + 1, ["train", "--model", "gpt_tiny"])
    for words in asked:
        lines += [f"## vitrail {' '.join(words)}", "", "```text", help_of(words), "```", ""]
    return "\n".join(lines).rstrip() + "\n"
