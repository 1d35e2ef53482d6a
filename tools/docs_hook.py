"""What mkdocs calls while it builds the site: files of the repository that pages link become pages themselves.

Pages link sources as they lie on the disk (`../vitrail/backbones/vit.py`), so that the links hold wherever the
repository is read. The site has no such file; it gets `source/vitrail/backbones/vit.py.md`, a page that quotes it, and
`source/ARCHITECTURE.md`, with the links rewritten to it.
"""
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
ALWAYS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")         # the navigation names these
QUOTED = {".py": "python", ".toml": "toml", ".cpp": "cpp", ".h": "cpp", ".txt": "text", "": "text"}


def outside(page: str, target: str) -> str | None:
    """What a page of docs/ links, as a path from the repository's root, where it lies outside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    if path == "docs" or path.startswith(("docs/", "..")) or not (ROOT / path).exists():
        return None
    return path


def address(path: str) -> str:
    """Where in the site the page of a file or folder of the repository lies."""
    if path.endswith(".md"):
        return f"source/{path}"
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def relative(page: str, target: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def rewritten(text: str, page: str, origin: str) -> str:
    """A page's text with links that leave docs/ pointing at their pages; `origin` is where its own links start."""
    def change(match: re.Match[str]) -> str:
        path = outside(origin, match[1])
        if path is not None:
            return relative(page, address(path)) + (match[2] or "")
        if origin != page:                                  # a file of the root that links into docs/
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[1]))
            return relative(page, inside) + (match[2] or "")
        return match[0]
    return LINK.sub(change, text)


def links(text: str, origin: str) -> Iterator[str]:
    """The files and folders outside docs/ that a text links."""
    for match in LINK.finditer(text):
        path = outside(origin, match[1])
        if path is not None:
            yield path


def text_of(path: str) -> str:
    """The page of a file or folder of the repository."""
    place = ROOT / path
    if path.endswith(".md"):
        return rewritten(place.read_text("utf-8"), address(path), posixpath.join("..", path))
    if place.is_dir():
        names = sorted(child.name for child in place.iterdir() if child.suffix in QUOTED and child.name[0] not in "._")
        return f"# {path}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    language = QUOTED.get(place.suffix, "text")
    return f"# {path}\n\n````{language}\n{place.read_text('utf-8')}\n````\n"


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for everything that is linked outside docs/, and for what these link."""
    queue = list(ALWAYS)
    for file in files.documentation_pages():
        queue += links(Path(file.abs_src_path or "").read_text("utf-8"), file.src_uri)
    known: set[str] = set()
    while queue:
        path = queue.pop()
        if path in known:
            continue
        known.add(path)
        files.append(File.generated(config, address(path), content=text_of(path)))
        if path.endswith(".md"):
            queue += links((ROOT / path).read_text("utf-8"), posixpath.join("..", path))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page's text as it stands in the site."""
    uri = page.file.src_uri
    return markdown if uri.startswith("source/") else rewritten(markdown, uri, uri)
