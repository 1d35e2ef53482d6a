"""The rules of the house: layers, sizes of files, forbidden calls and words, and what start-up imports."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vitrail.core.task import task_names

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "vitrail"
LAYERS = {"core": 0, "testing": 1, "ops": 1, "data": 1, "measure": 1, "figures": 1, "nn": 2, "positions": 3,
          "attention": 4, "backbones": 5, "foundations": 5, "explanation": 6, "mixers": 6, "compress": 6, "weights": 7,
          "models": 8, "training": 8, "tasks": 9, "deploy": 9, "report": 9, "evidence": 10, "recipes": 10, "verbs": 11,
          "cli": 12}
PAPERS_OF = ("positions", "attention", "backbones", "foundations")
FILES = sorted(HOUSE.rglob("*.py"))
FORBIDDEN = {"pickle.load", "pickle.loads", "pickle.Unpickler", "np.load", "numpy.load", "torch.load", "eval", "exec",
             "yaml.load", "yaml.unsafe_load", "torch.hub.load", "os.system", "shutil.unpack_archive"}


def imports(path: Path) -> list[str]:
    """The modules of vitrail that a file imports anywhere in it, at start-up or later."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vitrail."):
            names = [f"{node.module}.{a.name}" for a in node.names]
            found += [n if (HOUSE.parent / (n.replace(".", "/") + ".py")).exists() else node.module for n in names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vitrail":
            found += [f"vitrail.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith("vitrail.")]
    return [str(f) for f in found]


def place(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_imports_go_down(path: Path) -> None:
    here = path.relative_to(HOUSE).with_suffix("").parts[0]
    if here in ("__init__", "__main__", "testing"):
        return
    for module in imports(path):
        there = place(module)
        assert there in LAYERS, f"{module} stands in no layer"
        assert LAYERS[there] < LAYERS[here] or there == here, f"{path.name} ({here}) imports {module}"
        assert there != "data" or here == "data" or LAYERS[here] >= 6, "no model may know the data"


PAPERS = [p for p in FILES if p.parts[-2] in PAPERS_OF and p.stem != "__init__"]


@pytest.mark.parametrize("path", PAPERS, ids=lambda p: p.stem)
def test_sideways_imports_are_the_papers_ancestry(path: Path) -> None:
    import importlib
    module = importlib.import_module(f"vitrail.{path.parts[-2]}.{path.stem}")
    sideways = {m.removeprefix("vitrail.") for m in imports(path) if place(m) in PAPERS_OF}
    assert sideways == set(module.PAPER.builds_on)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 250


# what only a task's own folder, and the formats of stored data, may say
OF_TASKS = {"logits", "labels", "boxes", "top1", *task_names()}
# who else may, and why
ALLOWED = {
    "nn": "networks say what their heads answer, and papers for which tasks they were published",
    "positions": "as nn", "attention": "as nn", "backbones": "as nn", "foundations": "as nn",
    "evidence": "an experiment chooses a task, as a user does, and counts what its paper counted",
    "core/ancestors.py": "titles of papers",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_only_a_task_knows_its_words(path: Path) -> None:
    """Whatever stands outside works for every task, and so has no word of one."""
    parts = path.relative_to(HOUSE).parts
    if parts[0] == "tasks" or parts[:2] == ("data", "formats") or {parts[0], "/".join(parts)} & set(ALLOWED):
        return
    words = set(re.findall(r"[a-z0-9]+", path.read_text("utf-8").lower()))
    assert not words & OF_TASKS


def test_a_task_is_found_by_its_folder_alone() -> None:
    folders = {p.parent.name for p in (HOUSE / "tasks").glob("*/__init__.py")}
    assert folders == set(task_names())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_nothing_dangerous_is_called(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name, words = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name == "torch.load":
            assert words.get("weights_only") == "True", f"line {node.lineno}"
        elif name in ("np.load", "numpy.load"):
            assert words.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        else:
            assert name not in FORBIDDEN and not name.endswith(".extractall"), f"line {node.lineno}: {name}"
        for word in ("shell", "trust_remote_code", "allow_pickle"):
            assert words.get(word, "False") == "False", f"line {node.lineno}: {word}"


def test_nothing_names_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    text = re.compile(r"/(?:w[o]rk|r[o]ot|h[o]me/\w+)/|py[p]i\.org|python[h]osted")     # names nothing itself
    for name in filter(None, tracked):
        path = ROOT / name
        written = path.suffix in (".py", ".md", ".toml", ".txt", ".json", ".html", "")
        if written and path.is_file() and path != Path(__file__):
            assert not text.search(path.read_text("utf-8", errors="ignore")), name


def test_the_package_and_the_command_line_start_without_torch() -> None:
    code = "import sys, vitrail, vitrail.cli.main, vitrail.core.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
