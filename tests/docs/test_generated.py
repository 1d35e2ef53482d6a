"""The generated pages are those that the code and the measurements give now."""
import pytest

from tests.docs.pages import DOCS
from tools import docs, docs_evidence
from tools.docs_modules import modules, title
from tools.docs_papers import page


@pytest.mark.parametrize("part", docs.PARTS)
def test_pages_are_up_to_date(part: str) -> None:
    pages = docs.PARTS[part]()
    old = [str(path.relative_to(DOCS)) for path, text in pages.items()
           if not path.is_file() or path.read_text("utf-8") != text]
    assert old == [], "python tools/docs.py writes them"
    assert docs.stale(pages) == []


def test_every_module_has_a_page_of_its_own_name() -> None:
    titles = [title(module) for module in modules()]
    assert len(modules()) > 80 and all(titles)
    kinds = [f"{entries[0].kind} {title(module)}" for module, entries in modules().items()]
    assert len(set(kinds)) == len(kinds)


def test_a_page_says_what_was_measured() -> None:
    text = page("backbones.vit")
    assert "| `vit_s16` | 22,050,664 | 4.6 | 224 px |" in text and "arXiv:2010.11929" in text
    assert "(../attention/knn.md)" in page("backbones.kvt")
    for heading in ("## Sizes", "## Arguments", "## Lineage", "## Proof", "## Cost"):
        assert f"\n{heading}\n" in text
    rows = list(docs_evidence.rows_of("| a | b |\n|---|---|\n| 1 | 2 |\n\n| c |\n|---|\n| 3 |\n", "a"))
    assert rows == [{"a": "1", "b": "2"}]
