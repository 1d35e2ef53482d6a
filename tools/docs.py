"""The generated pages of the documentation: `python tools/docs.py [papers] [reference]` writes them; all, if unnamed.

`papers`: docs/papers, a page for each paper, and docs/systems.md. `reference`: docs/api and docs/commands.md. A test
recomputes all of them. `make docs` builds the site.
"""
import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))                   # `python tools/docs.py` puts tools/ there, and not its parent

from tools import docs_index, docs_modules, docs_papers, docs_reference  # noqa: E402

DOCS = ROOT / "docs"


def papers() -> dict[Path, str]:
    """The page of every paper and those that list them."""
    pages = {DOCS / "papers" / docs_modules.path(module): docs_papers.page(module) for module in docs_modules.modules()}
    return {**pages, DOCS / "papers" / "index.md": docs_index.index(), DOCS / "systems.md": docs_index.systems()}


def reference() -> dict[Path, str]:
    """The pages that quote docstrings and help."""
    return {**{DOCS / "api" / name: text for name, text in docs_reference.api().items()},
            DOCS / "commands.md": docs_reference.commands()}


PARTS = {"papers": papers, "reference": reference}


def stale(pages: dict[Path, str]) -> list[Path]:
    """Files that lie in a folder which holds generated pages only, and are none of these."""
    folders = [DOCS / name for name in ("papers", "api") if any((DOCS / name) in path.parents for path in pages)]
    return [path for folder in folders for path in sorted(folder.rglob("*.md")) if path not in pages]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="papers, reference; all, if unnamed")
    for name in parser.parse_args().parts or PARTS:
        pages = PARTS[name]()
        for path in stale(pages):
            path.unlink()
        for path, text in pages.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"wrote {len(pages)} pages of {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
