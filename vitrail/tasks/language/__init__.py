"""Language: translation, going on with a text, and filling gaps: what the networks that vision took over were made
for."""
from vitrail.core.lazy import Lazy
from vitrail.core.score import Metric
from vitrail.core.task import Task

_HERE = "vitrail.tasks.language"

TASK = Task(
    name="language",
    about="a text in, a text out: translates, goes on with a text, or fills gaps",
    kinds=("translation", "causal", "masked"),
    takes="text",
    metrics={
        "perplexity": Metric(label="perplexity", larger_is_better=False, digits=3),
        "accuracy": Metric(label="accuracy of tokens", share=True),
        "exact": Metric(label="sentences without a mistake", share=True),
        "next": Metric(label="accuracy about segments", share=True),
    },
    headline="perplexity",
    settings=Lazy("vitrail.tasks.language.settings:LanguageSettings"),
    spec=Lazy(f"{_HERE}.spec:LanguageSpec"),
    spec_options=("vocabulary", "length"),
    make_spec=Lazy(f"{_HERE}.spec:make_spec"),
    build=Lazy(f"{_HERE}.model:build"),
    check=Lazy(f"{_HERE}.setup:check"),
    splits=Lazy(f"{_HERE}.setup:open_splits"),
    summary=Lazy(f"{_HERE}.setup:about"),
    open=Lazy(f"{_HERE}.setup:open_for_model"),
    objective=Lazy(f"{_HERE}.setup:make_objective"),
    evaluate=Lazy(f"{_HERE}.evaluate:evaluate"),
    generate=Lazy(f"{_HERE}.generate:generate"),
    output_name="logits",
    explain=Lazy(f"{_HERE}.explain:explain_text"),
    score=Lazy(f"{_HERE}.answers:score"),
    targets=Lazy(f"{_HERE}.answers:targets"),
    agreement=Lazy(f"{_HERE}.answers:agreement"),
    example_inputs=Lazy(f"{_HERE}.answers:example_inputs"),
    read_inputs=Lazy(f"{_HERE}.answers:read_inputs"),
)
