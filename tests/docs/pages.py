"""The pages of the documentation as tests read them: blocks of code, commands, links and headings."""
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = (DOCS / "papers", DOCS / "api")
GUIDE = [ROOT / "README.md", DOCS / "index.md", *sorted((DOCS / "guide").glob("*.md"))]

_FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is said to be, what the comment above it says, and where it stands.

    A comment `<!-- run -->` above shell commands has them executed, `<!-- run slowly -->` only by `make test-all`; one
    that begins with `not run: REASON` above Python has it compiled only. A block with a `title="NAME"` is a file of
    that name, for the blocks after it.
    """

    page: Path
    line: int
    language: str
    title: str
    mark: str
    body: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    for match in _FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        yield Block(page, text.count("\n", 0, match.start("info")) + 1, language, title[1] if title else "",
                    match["mark"] or "", match["body"])


def commands(block: Block) -> Iterator[list[str]]:
    """The words after `vitrail` of each command in a block of shell commands, those of torchrun's included."""
    for line in block.body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):     # variables of the environment
            words = words[1:]
        if words[:1] == ["vitrail"]:
            yield words[1:]
        elif words[:1] == ["torchrun"] and "vitrail" in words:
            yield words[words.index("vitrail") + 1:]


def without_code(text: str) -> str:
    """A page's text without its code, in which brackets are not links and hashes are not headings."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S))


def links(page: Path) -> Iterator[tuple[str, str]]:
    """The internal links of a page: path ("" for the page itself) and anchor ("" for its beginning)."""
    for target in _LINK.findall(without_code(page.read_text("utf-8"))):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return {slugify(heading.replace("`", ""), "-") for heading in _HEADING.findall(text)}
