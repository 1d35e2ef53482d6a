"""Classification: which of several classes an image belongs to."""
from vitrail.core.lazy import Lazy
from vitrail.core.score import Metric
from vitrail.core.task import Task

_HERE = "vitrail.tasks.classification"

TASK = Task(
    name="classification",
    about="which of several classes an image belongs to",
    metrics={
        "top1": Metric(label="top-1 accuracy", share=True),
        "top5": Metric(label="top-5 accuracy", share=True),
        "balanced": Metric(label="balanced accuracy", share=True),
        "f1": Metric(label="F1, mean of classes", share=True),
        "ece": Metric(label="expected calibration error", share=True, larger_is_better=False),
        "brier": Metric(label="Brier score", larger_is_better=False),
        "nll": Metric(label="negative log-likelihood", larger_is_better=False),
    },
    headline="top1",
    settings=Lazy("vitrail.tasks.classification.settings:ClassificationSettings"),
    spec=Lazy(f"{_HERE}.spec:ClassificationSpec"),
    spec_options=("classes", "labels", "preprocessing"),
    make_spec=Lazy(f"{_HERE}.spec:make_spec"),
    build=Lazy(f"{_HERE}.model:build"),
    check=Lazy(f"{_HERE}.setup:check"),
    splits=Lazy(f"{_HERE}.setup:open_splits"),
    summary=Lazy(f"{_HERE}.setup:about"),
    open=Lazy(f"{_HERE}.setup:open_for_model"),
    objective=Lazy(f"{_HERE}.setup:make_objective"),
    evaluate=Lazy(f"{_HERE}.evaluate:evaluate"),
    predict=Lazy(f"{_HERE}.predict:predict"),
    input_name="image",
    output_name="logits",
    comparison={"model": {"set": ("patch=2", "dim=64", "depth=4", "heads=4")}, "data": {"size": 16, "crop": 1.0},
                "augmentation": {"scale": (0.7, 1.0), "flip": 0.0, "randaugment_ops": 0, "erase": 0.0},
                "training": {"epochs": 15, "batch": 32, "lr": 3e-3, "threads": 1}},
    explain=Lazy("vitrail.explanation.api:explain_image"),
    score=Lazy(f"{_HERE}.answers:score"),
    targets=Lazy(f"{_HERE}.answers:targets"),
    agreement=Lazy(f"{_HERE}.answers:agreement"),
    example_inputs=Lazy(f"{_HERE}.answers:example_inputs"),
    read_inputs=Lazy(f"{_HERE}.answers:read_inputs"),
)
