"""The pages that list all papers: docs/papers/index.md, and docs/systems.md with what each system is and its proof."""
from tools import docs_evidence as evidence
from tools.docs_evidence import table
from tools.docs_modules import KINDS, modules, path, title
from tools.docs_papers import short
from vitrail.core.catalogue import Entry, names


def of_kind(kind: str) -> dict[str, list[Entry]]:
    """The modules that declare something of a kind, by the year of their paper and then by name."""
    kept = {module: entries for module, entries in modules().items() if entries[0].kind == kind}
    return dict(sorted(kept.items(), key=lambda item: (item[1][0].year, title(item[0]).casefold())))


def index() -> str:
    """Every paper by kind and year, with its idea: docs/papers/index.md."""
    lines = ["# Every paper", "", "A page for each, made from its file and from what was measured of it by "
             "`python tools/docs.py`. Terms and notation are those of the house: [what vitrail promises]"
             "(../guide/promises.md).", ""]
    for kind, heading in KINDS.items():
        rows = [f"| {entries[0].year} | [{title(module)}]({path(module)}) | {short(module)} |"
                for module, entries in of_kind(kind).items()]
        lines += [f"## {heading}", "", "| year | paper | idea |", "|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def systems() -> str:
    """Every backbone with its sizes and how far it is from its reference: docs/systems.md."""
    rows = []
    for module, entries in of_kind("backbone").items():
        sizes = sorted(entry.params / 1e6 for entry in entries)
        cases = evidence.parity().get(module, [])
        worst = evidence.worst([row["largest difference"] for row in cases]) if cases else "-"
        worst = "0" if worst == "0.0e+00" else worst
        span = f"{sizes[0]:.1f}" if len(sizes) == 1 else f"{sizes[0]:.1f} to {sizes[-1]:.1f}"
        named = f"`{entries[0].name}`" + (f" ... `{entries[-1].name}`" if len(entries) > 1 else "")
        rows.append((f"[{title(module)}](papers/{path(module)}) ({entries[0].year})", f"{len(entries)}: {named}",
                     span, worst))
    text = f"""# Systems, and how they are proven

{len(names("backbone"))} backbones of {len(of_kind("backbone"))} files, {len(names("attention"))} mechanisms of \
attention, {len(names("position"))} position codes and {len(names("foundation"))} models of text.

## Backbones

Each was filled with the reference's noise tensors through its key table, strictly, and asked the same. The difference
is the largest of any logit, over the deviation of the reference's logits (`python tools/proof.py`). The reference is
an installed package, recorded official code, or, where none runs, the paper's equations in another library's network;
[case by case](parity.md). Large sizes are compared at a few of their blocks. `timm` and official layouts are read and
written.
"""
    return "\n".join([text, *table(("paper", "systems", "parameters, millions", "largest difference"), rows),
                      *_mechanisms()]).rstrip() + "\n"


def _mechanisms() -> list[str]:
    """What is proven of everything that is not a backbone, in numbers."""
    others = [name for kind in ("attention", "position", "foundation") for name in names(kind)]
    proven = [name for name in others if name in evidence.proofs()]
    alone = [name for name in proven if all("(no reference runs)" in row["how"] for row in evidence.proofs()[name])]
    worst = evidence.worst([row["largest difference"] for name in proven for row in evidence.proofs()[name]])
    return ["## Mechanisms, position codes and models of text", "",
            f"The {len(others)} are compared one by one with installed packages, with answers recorded from official "
            f"code, or, where none runs, with the exact property that defines them: [row by row](mechanisms.md) "
            f"(`python tools/mechanisms.py`). {len(others) - len(proven)} are unproven, {len(alone)} are proven by "
            f"properties alone, and the worst difference is {worst}.", "",
            "## Trained", "", "One small network a paper learns the bundled digits from scratch in minutes on one "
            "core: [every score](digits.md) (`python tools/digits.py`)."]
