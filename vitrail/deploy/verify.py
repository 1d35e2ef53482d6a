"""An artefact beside the model it came from, on real inputs: every tensor of their outputs."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError
from vitrail.deploy.inputs import ModelInputs, Size
from vitrail.deploy.structure import leaves_of, names_of, rebuild

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the comparison saw.

    difference: the largest of any number, in the output `worst`, and scale: from the least number of that output to the
    largest. agreement: the share of samples with the same answer, as the task has it; nan where it has no such thing.
    """

    samples: int
    batches: tuple[int, ...]
    sizes: tuple[Size, ...]
    worst: str
    difference: float
    scale: float
    agreement: float


def compare(model: nn.Module, run: Run, inputs: ModelInputs, data: Any, *, batches: Sequence[int],
            sizes: Sequence[Size], tolerance: float) -> Compared:
    """Every sample through both, in batches of each of these counts and at each of these sizes.

    tolerance: the largest difference allowed in any output, as a share of its scale. Raises ExportError where one is
    larger, where the artefact does not run, and where the model's answers never differ, so that nothing could be told
    from them.
    """
    names: list[str] = []
    ours: list[list[Tensor]] = []
    theirs: list[list[Tensor]] = []
    agreements: list[float] = []
    samples = 0
    for size in sizes:
        read = inputs.read(data, size=size)
        samples = len(read[0])
        for given in _batches(read, batches):
            output = _model(model, given)
            answer = [leaf.clone() for leaf in _artefact(run, given)]
            leaves = leaves_of(output)
            names = names_of(output, inputs.task.output_name)
            ours.append([leaf.double().flatten() for leaf in leaves])
            theirs.append([leaf.double().flatten() for leaf in answer])
            if inputs.task.agreement is not None:
                agreements.append(inputs.task.agreement(output, rebuild(output, answer)))
    agreement = sum(agreements) / len(agreements) if agreements else float("nan")
    shares: dict[str, tuple[float, float, float]] = {}
    for number, name in enumerate(names):
        own, other = (torch.cat([leaves[number] for leaves in side]) for side in (ours, theirs))
        scale = float(own.max() - own.min())
        difference = float((own - other).abs().max())
        shares[name] = (difference / scale if scale else 0.0 if difference == 0 else float("inf"), difference, scale)
    if not any(scale for _, _, scale in shares.values()):
        raise ExportError("the model answers every input with the same numbers, as one with a new head does, so no "
                          "comparison can tell whether the export is right: load trained weights first")
    worst = max(shares, key=lambda name: (shares[name][0] != shares[name][0], shares[name][0]))
    share, difference, scale = shares[worst]
    if not share <= tolerance:                                  # nan is not
        agreed = f", and {agreement:.1%} of the answers agree" if agreements else ""
        raise ExportError(f"the artefact does not answer like the model: the largest difference in {worst!r} is "
                          f"{difference:.3g}, {share:.2g} of its range ({tolerance:g} is allowed){agreed}. Nothing was "
                          "written")
    return Compared(samples=samples, batches=tuple(batches), sizes=tuple(sizes), worst=worst, difference=difference,
                    scale=scale, agreement=agreement)


def _batches(read: Sequence[Tensor], counts: Sequence[int]) -> Iterator[list[Tensor]]:
    """Every sample once, and then again until the last batch is full; of the other counts one batch each."""
    whole = len(read[0])
    for number, count in enumerate(counts):
        for start in range(0, whole if number == 0 else 1, count):
            rows = torch.arange(start, start + count) % whole
            yield [leaf[rows] for leaf in read]


def _model(model: nn.Module, given: Sequence[Tensor]) -> Any:
    with torch.no_grad():
        try:
            output = model(*given)
        except Exception as e:
            raise ExportError(f"the model itself does not take inputs of {_shapes(given)}: "
                              f"{' '.join(str(e).split())[:300]}") from e
    if not all(leaf.isfinite().all() for leaf in leaves_of(output)):
        raise ExportError("the model does not answer these inputs with finite numbers")
    return output


def _artefact(run: Run, given: Sequence[Tensor]) -> Sequence[Tensor]:
    try:
        return run(given)
    except Exception as e:                                      # the runtimes raise errors of many kinds
        raise ExportError(f"the artefact does not run on a batch of {len(given[0])}, of {_shapes(given)}: "
                          f"{' '.join(str(e).split())[:300]}. Nothing was written") from e


def _shapes(given: Sequence[Tensor]) -> str:
    return " and ".join(" x ".join(map(str, leaf.shape)) for leaf in given)
