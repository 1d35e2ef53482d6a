"""A page for each paper, made from its file and from the committed measurements. `tools/docs.py papers` writes them."""
import inspect
import re
from collections.abc import Sequence
from typing import Any

from tools import docs_evidence as evidence
from tools.docs_evidence import cell, table
from tools.docs_lineage import ideas
from tools.docs_modules import declared, docstring, link, module_named, modules, prose, title
from vitrail.core import catalogue
from vitrail.core.card import Figures, Paper, TextFigures, Variant
from vitrail.core.mechanism import Mechanism, Position

COMMIT = re.compile(r"(@[0-9a-f]{10})[0-9a-f]{30}")         # a commit's first digits will do on a page
SAY = {"params_m": "M parameters", "gflops": "GFLOPs", "top1": "% top-1"}


def page(module: str) -> str:
    """The whole page of a module, ready to be written."""
    idea, rest = docstring(module)
    paper: Paper = module_named(module).PAPER
    values = declared(module)
    lines = [f"# {title(module)}", "", f"> {' '.join(idea.split())}", ""]
    lines += [*rest.splitlines(), ""] if rest and not is_citation(rest, paper) else []
    lines += [*source(module, paper), "", "## Use it", "", *usage(module), ""]
    variants = {name: value for name, value in values.items() if isinstance(value, Variant)}
    mechanisms = {name: value for name, value in values.items() if isinstance(value, Mechanism)}
    positions = {name: value for name, value in values.items() if isinstance(value, Position)}
    for part in (sizes(variants), releases(variants), arguments(variants), mechanism_facts(mechanisms),
                 position_facts(positions), lineage(module, paper), uses(module), proof(module, list(values)),
                 cost(list(values)), score(module)):
        lines += part
    return "\n".join(lines).rstrip() + "\n"


def is_citation(text: str, paper: Paper) -> bool:
    """Whether a paragraph says no more than the line of the paper below it."""
    return bool(paper.arxiv) and " ".join(text.split()).endswith(f"arXiv:{paper.arxiv}.") and len(text) < 90


def source(module: str, paper: Paper) -> list[str]:
    address = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.title
    places = ", ".join(text for text in (paper.venue, paper.arxiv and f"arXiv:{paper.arxiv}") if text)
    file = f"vitrail/{module.replace('.', '/')}.py"
    code = f"[{paper.code}](https://github.com/{paper.code})" if paper.code else "none was released, or none is known"
    return [f"- **Paper:** {paper.authors} ({paper.year}). {address}.{f' {places}.' if places else ''}",
            f"- **Official code:** {code}{f', {paper.license}' if paper.code and paper.license else ''}",
            f"- **Its file here:** [{file}]({'../' * (module.count('.') + 2)}{file})"]


def usage(module: str) -> list[str]:
    entry = modules()[module][0]
    name = entry.name
    if entry.kind == "backbone":
        size = entry.image
        return ["```python", "import torch", "import vitrail", "",
                f'model = vitrail.create_model("{name}", classes=10)',
                f"logits = model(torch.zeros(1, 3, {size}, {size}))     # (1, 10)", "```", "", "```bash",
                f"vitrail train --model {name} --data photos --out runs/{name}", "```"]
    mixing = [e.name for e in modules()[module] if e.mixes]
    if mixing:
        return ["In a plain backbone, in the place of its own attention:", "", "```python", "import vitrail", "",
                f'model = vitrail.create_model("vit_s16", classes=10, mixer="{mixing[0]}")', "```", "", "```bash",
                f"vitrail train --model vit_s16 --mixer {mixing[0]} --data photos --out runs/{mixing[0]}", "```"]
    if entry.kind == "foundation":
        small = next((e.name for e in modules()[module] if e.name.endswith("_tiny")), name)
        data = "toy" if "translation" in entry.tasks else "page"
        return ["```bash", f"vitrail show {small}", f"vitrail train --model {small} --data {data} --out runs/{small}",
                "```"]
    value = catalogue.entry_of(name)
    assert isinstance(value, (Mechanism, Position))
    return ["```python", f"from vitrail.{module} import {value.build.__name__}", "```"]


def sizes(variants: dict[str, Variant[Any]]) -> list[str]:
    if not variants:
        return []
    rows = []
    for name, value in variants.items():
        figures = value.figures
        at = f"{figures.image} px" if isinstance(figures, Figures) else f"{figures.length} tokens"
        shown = ", ".join(f"{key} {compact(v)}" for key, v in value.args.items() if isinstance(v, (int, float, tuple)))
        rows.append((f"`{name}`", f"{figures.params:,}", f"{figures.gflops:.3g}", at, reported(figures), shown))
    text = any(isinstance(value.figures, TextFigures) for value in variants.values())
    return ["## Sizes", "", *table(("name", "parameters", "GFLOPs", "at", "as reported", "arguments"), rows),
            "Parameters and GFLOPs (1e9 multiply-adds) are measured here and recomputed by a test"
            f"{'' if text else ', with a head of 1,000 classes'}; what is reported is quoted.", ""]


def compact(value: object) -> str:
    """A value of an argument: `(2, 2, 6, 2)` as `2, 2, 6, 2` would be ambiguous, so it keeps its brackets."""
    return str(value).replace(" ", "")


def reported(figures: Figures | TextFigures) -> str:
    said = ", ".join(f"{value:g} {SAY.get(key, key)}" for key, value in figures.reported.items())
    return f"{said} ({figures.where})" if said and figures.where else said


def releases(variants: dict[str, Variant[Any]]) -> list[str]:
    rows = [(f"`{name}`", f"`{w.name}`", ", ".join(f"{v:g} {SAY.get(k, k)}" for k, v in w.reported.items()), w.where,
             w.license, w.keys) for name, value in variants.items() for w in value.weights]
    if not rows:
        return []
    return ["## Released weights", "",
            *table(("system", "weights", "reported", "where", "licence", "layout"), rows),
            "`vitrail show NAME` prints their addresses. Reported numbers are their authors', not ours.", ""]


def arguments(variants: dict[str, Variant[Any]]) -> list[str]:
    """One table for each constructor, with the values of its first variant."""
    lines: list[str] = []
    builds: dict[Any, str] = {}
    for name, value in variants.items():
        builds.setdefault(value.build, name)
    for build, name in builds.items():
        parameters = inspect.signature(build).parameters
        settings = catalogue.variant_of(name).settings()
        rows = [(f"`{key}`", f"`{inspect.formatannotation(p.annotation)}`", f"`{constant(settings[key])}`")
                for key, p in parameters.items()]
        heading = f"### `{build.__name__}`" if len(builds) > 1 else "## Arguments"
        lines += [*(["## Arguments", ""] if len(builds) > 1 and not lines else []), heading, "",
                  *paragraph(build.__doc__), *table(("argument", "type", f"in `{name}`"), rows)]
    return lines


def constant(value: object) -> str:
    """A default's text, which may not hold an address of memory."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return str(getattr(value, "__name__", "a function"))
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def paragraph(text: str | None) -> list[str]:
    return [*prose(text).splitlines(), ""] if text else []


def mechanism_facts(mechanisms: dict[str, Mechanism]) -> list[str]:
    lines = []
    for name, value in mechanisms.items():
        mixes = "yes" if not isinstance(value.mixer, str) else f"no: {value.mixer}"
        rows = [("takes and returns", f"`{value.takes.value}`"), ("time, as the paper says", value.time),
                ("memory, as the paper says", value.memory), ("where it says so", value.where),
                ("what `vitrail.record` shows", value.shows), ("can mix the tokens of a backbone", mixes)]
        lines += [f"## `{name}`", "", f"`{value.build.__module__}.{value.build.__name__}`: "
                  f"{(prose(value.build.__doc__ or '') or 'see its file').strip()}", "",
                  *table(("property", "value"), [row for row in rows if str(row[1])])]
    return lines


def position_facts(positions: dict[str, Position]) -> list[str]:
    lines = []
    for name, value in positions.items():
        rows = [("enters", value.enters), ("at another size", value.fits),
                ("learned", "yes" if value.learned else "no"), ("what goes wrong with it", value.lesson)]
        lines += [f"## `{name}`", "", f"`{value.build.__module__}.{value.build.__name__}`: "
                  f"{prose(value.build.__doc__ or '').strip()}", "",
                  *table(("property", "value"), [row for row in rows if row[1]])]
    return lines


def lineage(module: str, paper: Paper) -> list[str]:
    """What the paper builds on as an idea, where its declaration says so, and what its file imports."""
    imports = [link(other, module) for other in paper.builds_on]
    importers = [link(other, module) for other, entries in modules().items() if module in entries[0].builds_on]
    lines = ["## Lineage", "", *ideas(module, paper)]
    lines += [f"- **Its file imports:** {', '.join(imports) or 'no other paper'}"]
    lines += [f"- **Imported by:** {', '.join(importers)}"] if importers else []
    return [*lines, ""]


def ancestors(module: str) -> list[str]:
    """Every module of a paper that this one imports, at any remove, nearest first."""
    order: list[str] = []
    queue = [module]
    while queue:
        entries = modules().get(queue.pop(0), [])
        for other in entries[0].builds_on if entries else ():
            if other not in order:
                order.append(other)
                queue.append(other)
    return order


def uses(module: str) -> list[str]:
    kept = [other for other in ancestors(module) if other.split(".")[0] in ("attention", "positions")]
    if not kept:
        return []
    return ["## Mechanisms that it uses", "",
            *(f"- {link(other, module)}: {' '.join(docstring(other)[0].split())}" for other in kept), ""]


def proof(module: str, names: Sequence[str]) -> list[str]:
    up = "../" * (module.count(".") + 1)
    cases = evidence.parity().get(module, [])
    keys = ("system", "reference", "layout", "depth", "sizes", "largest difference")
    lines = table(keys, [[COMMIT.sub(r"\1", row[key]) for key in keys] for row in cases])
    compared = [(f"`{name}`", row["how"], row["compared with"], row["largest difference"])
                for name in names for row in evidence.proofs().get(name, [])]
    lines += table(("name", "how", "compared with", "largest difference"), compared)
    page_name = "parity.md" if cases else "mechanisms.md"
    said = ["The largest difference of any output over the deviation of the reference's, with seeded noise for weights "
            f"and inputs ([how]({up}{page_name})).", ""]
    return ["## Proof", "", *said, *lines] if lines else []


def cost(names: Sequence[str]) -> list[str]:
    up = "../../"
    lines = []
    if rows := evidence.survey_table(names):
        lines += [f"Measured on two cores; MiB beside weights and images ([conditions]({up}survey/survey.md)).", "",
                  *rows]
    if rows := evidence.attention_table(names):
        lines += [f"One layer on N tokens ([conditions]({up}attention/attention.md)).", "", *rows]
    return ["## Cost", "", *lines] if lines else []


def score(module: str) -> list[str]:
    row = evidence.digits().get(module.rpartition(".")[2]) if module.startswith("backbones.") else None
    if row is None:
        return []
    keys = [key for key in row if key != "paper"]
    return ["## A small one, trained on digits", "",
            "From scratch, in minutes on one core ([how](../../digits.md)).", "",
            *table(keys, [[row[key] for key in keys]])]


def short(module: str) -> str:
    """A cell of the index: the idea without the name that it begins with."""
    idea = " ".join(docstring(module)[0].split())
    head, colon, tail = idea.partition(": ")
    return cell(tail[:1].upper() + tail[1:] if colon and head == title(module) else idea)
