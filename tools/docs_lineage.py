"""What a paper builds on as an idea, with the place where it says so, as lines of its page."""
import importlib
import importlib.util

from tools.docs_modules import link
from vitrail.core.card import Paper


def ideas(module: str, paper: Paper) -> list[str]:
    """A line for each idea of `PAPER.ideas`; none where the declaration has no such field."""
    taken = getattr(paper, "ideas", ())
    lines = [f"    - {link(idea.of, module) if '.' in idea.of else outside(idea.of)}: {idea.source}" for idea in taken]
    return ["- **Builds on the ideas of:**", *lines] if lines else []


def outside(key: str) -> str:
    """The citation of a paper that is not built here, where the table of such papers has it."""
    if importlib.util.find_spec("vitrail.core.ancestors") is None:
        return key
    table = importlib.import_module("vitrail.core.ancestors").ANCESTORS
    ancestor = table.get(key)
    cite = getattr(ancestor, "cite", None)
    return str(cite()).rstrip(".") if callable(cite) else key
