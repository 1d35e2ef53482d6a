"""torch.compile does what it says, or the run stops and says why."""
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.children import bits, settings
from tests.training.toys import CLASSES, Toy, ToyBatch
from vitrail.core.errors import SettingsError, TrainingError
from vitrail.nn import Chain, DropPath, LayerNorm, Residual, Stack, share
from vitrail.training.loop import fit
from vitrail.training.run import Run


class Small(Toy):
    """One residual whose path is dropped: with probability 0, so that eager and compiled draw alike."""

    def model(self) -> nn.Module:
        stack = Stack([Residual(nn.Linear(192, 192), LayerNorm(192), drop=DropPath(self.drop))])
        return Chain(flat=nn.Flatten(), blocks=stack, head=nn.Linear(192, CLASSES))


class Untraceable(Small):
    def loss(self, model: nn.Module, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        logits = model(batch.images)
        if logits.sum().item() > 1e9:               # a branch on a value: the graph ends here
            logits = logits * 0
        return {"loss": F.cross_entropy(logits, batch.labels)}


def test_compiled_steps_learn_the_same_in_one_graph(tmp_path: Path) -> None:
    logs = []
    for compile in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        chosen = settings(tmp_path / str(compile), compile=compile, epochs=1, accumulate=1, log_every=1)
        with Run.open(chosen) as run:
            fit(Small(drop=0.0), chosen, run)
        assert bool(torch._dynamo.utils.counters["stats"]["unique_graphs"]) == compile
        assert not torch._dynamo.utils.counters["graph_break"]
        logs.append([line["loss"] for line in bits(run.folder)["log"] if line["kind"] == "train"])
    assert logs[1] == pytest.approx(logs[0], abs=1e-5)


def test_the_compiler_traces_shared_stochastic_depth() -> None:
    part = torch.compile(DropPath(0.5), fullgraph=True, backend="aot_eager")
    x, seen = torch.ones(4, 3), []
    for rank in (0, 1):
        torch.manual_seed(3)
        with share(rank, 2):
            seen.append(part(x))
    torch.manual_seed(3)
    assert torch.equal(torch.cat(seen), DropPath(0.5)(torch.ones(8, 3)))


def test_what_cannot_be_compiled_stops_the_run(tmp_path: Path) -> None:
    torch._dynamo.reset()
    chosen = settings(tmp_path / "run", compile=True)
    with Run.open(chosen) as run, pytest.raises(TrainingError, match=r"cannot be compiled .* compile = false"):
        fit(Untraceable(), chosen, run)
    assert not list(run.checkpoints.glob("step-*"))


def test_a_machine_without_compiler_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    chosen = settings(tmp_path / "run", compile=True)
    with Run.open(chosen) as run, pytest.raises(TrainingError, match="cannot be compiled"):
        fit(Small(), chosen, run)


def test_compile_and_fsdp_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    chosen = settings(tmp_path / "run", compile=True, strategy="fsdp")
    with Run.open(chosen) as run, pytest.raises(SettingsError, match="do not go together"):
        fit(Small(), chosen, run)
