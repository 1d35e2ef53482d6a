"""No link of the documentation leads nowhere, neither to a file nor to a heading."""
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, anchors, links

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def dead(page: Path) -> list[str]:
    """The internal links of a page that lead to nothing in the repository."""
    nowhere = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (path and not target.is_relative_to(ROOT)):
            nowhere.append(path)
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            nowhere.append(f"{path}#{anchor}")
    return nowhere


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_pages_are_reachable() -> None:
    """Every page of docs/ is linked by another, or named by the navigation."""
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    linked = {(page.parent / path).resolve() for page in PAGES for path, _ in links(page) if path}
    lost = [page for page in sorted(DOCS.rglob("*.md"))
            if page not in linked and str(page.relative_to(DOCS)) not in navigation]
    assert lost == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](nothing.md) [b](#a-page) [c](#no-such) [d](https://example.org) `[e](x.md)`\n")
    assert [f"{path}#{anchor}" for path, anchor in links(page)] == ["nothing.md#", "#a-page", "#no-such"]
    assert "nothing.md" in dead(page) and "#no-such" in dead(page) and "#a-page" not in dead(page)
