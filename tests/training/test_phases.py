"""Parts of a step that learn in turns, what is done after a step, and what learns how fast: each resumed to the bit."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.children import settings
from tests.training.toys import Toy, ToyBatch
from vitrail.core.errors import SettingsError, TrainingError
from vitrail.training.engine import Engine
from vitrail.training.loop import fit
from vitrail.training.objective import Phase
from vitrail.training.run import Run
from vitrail.training.schedule import learning_rate
from vitrail.training.tensors import decoded


class Pair(nn.Module):
    """A generator of images from noise, and a discriminator of them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(4, 3 * 8 * 8)
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8), nn.GELU(), nn.Linear(8, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise).view(-1, 3, 8, 8)


@dataclass
class Gan(Toy):
    """Two phases: what is real, and how to look so."""

    def model(self) -> nn.Module:
        return Pair()

    def phases(self, model: nn.Module) -> tuple[Phase, ...]:
        return (Phase(name="discriminator", parameters=("discriminator.*",), loss=self.tell_apart),
                Phase(name="generator", parameters=("generator.*",), loss=self.deceive))

    def tell_apart(self, model: Any, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        real, made = model.discriminator(batch.images), model.discriminator(model(torch.randn(len(batch), 4)))
        return {"loss": F.softplus(-real).mean() + F.softplus(made).mean(), "real": real.mean()}

    def deceive(self, model: Any, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        return {"loss": F.softplus(-model.discriminator(model(torch.randn(len(batch), 4)))).mean()}

    def evaluate(self, model: Any, device: torch.device, rank: int, of: int) -> dict[str, float]:
        return {"accuracy": float(model(torch.ones(1, 4)).std())}


class Followed(nn.Module):
    """An encoder, a copy that follows it slowly, and a queue of what the copy answered."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.momentum = nn.Linear(3 * 8 * 8, 8), nn.Linear(3 * 8 * 8, 8)
        self.momentum.load_state_dict(self.encoder.state_dict())
        self.momentum.requires_grad_(False)
        self.register_buffer("queue", torch.zeros(16, 8))
        self.register_buffer("latest", torch.zeros(8, 8))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.encoder(images.flatten(1)), dim=1)


@dataclass
class Contrast(Toy):
    """A momentum encoder (MoCo, arXiv:1911.05722) without labels."""

    def model(self) -> nn.Module:
        return Followed()

    def loss(self, model: Any, batch: ToyBatch, step: int) -> dict[str, Tensor]:
        query = model(batch.images)
        with torch.no_grad():
            key = F.normalize(model.momentum(batch.images.flip(-1).flatten(1)), dim=1)
            model.latest[:len(key)] = key
        scores = torch.cat([(query * key).sum(1, keepdim=True), query @ model.queue.clone().T], 1) / 0.2
        return {"loss": F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))}

    def after_step(self, model: Any, step: int) -> None:
        assert not torch.is_grad_enabled()
        for slow, fast in zip(model.momentum.parameters(), model.encoder.parameters(), strict=True):
            slow.lerp_(fast, 0.1)
        model.queue.copy_(torch.cat([model.latest, model.queue])[:16])

    def evaluate(self, model: Any, device: torch.device, rank: int, of: int) -> dict[str, float]:
        return {"accuracy": float(model.queue.std())}


class Cut(Exception):
    """A power cut."""


def trained(toy: Toy, out: Path, cut: int = -1, **changes: Any) -> dict[str, Tensor]:
    """The newest checkpoint's network and optimizer, after a training that may be cut off at a step."""
    chosen = settings(out, **{"accumulate": 1, "save_every": 1, **changes})
    with Run.open(chosen) as run:
        if cut >= 0:
            original = Engine.train

            def dying(self: Engine, batch: Any, step: int, lr: float, stop: Any) -> Any:
                if step == cut:
                    raise Cut
                return original(self, batch, step, lr, stop)
            Engine.train = dying                                        # type: ignore[method-assign]
            try:
                with pytest.raises(Cut):
                    fit(toy, chosen, run)
            finally:
                Engine.train = original                                 # type: ignore[method-assign]
        else:
            fit(toy, chosen, run)
    newest = max((out / "checkpoints").glob("step-*"), key=lambda path: int(path.name.partition("-")[2]))
    return {f"{path.stem}.{name}": tensor for path in sorted(newest.glob("*.safetensors"))
            for name, tensor in decoded(path).items()}


WAYS: dict[str, tuple[type[Toy], dict[str, Any]]] = {
    "phases": (Gan, {}), "phases in parts": (Gan, {"accumulate": 2, "ema": 0.9}), "after a step": (Contrast, {}),
    "frozen": (Toy, {"freeze": ("patch_embed.*", "blocks.0.*")}), "rates": (Toy, {"lr_factors": ("blocks.*=0.1",)}),
    "sgd": (Toy, {"optimizer": "sgd"}), "nesterov": (Toy, {"optimizer": "sgd", "nesterov": True}),
    "no momentum": (Toy, {"optimizer": "sgd", "momentum": 0.0}), "lars": (Toy, {"optimizer": "lars", "lr": 1.0}),
    "step": (Toy, {"schedule": "step", "lr_steps": (1.0, 2.5)}), "constant": (Toy, {"schedule": "constant"})}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_cut_off_goes_on_to_the_bit(way: str, tmp_path: Path) -> None:
    kind, changes = WAYS[way]
    whole = trained(kind(), tmp_path / "whole", **changes)
    trained(kind(), tmp_path / "cut", cut=4, **changes)
    trained(kind(), tmp_path / "cut", cut=9, **changes)
    broken = trained(kind(), tmp_path / "cut", **changes)
    assert whole.keys() == broken.keys() and all(torch.equal(whole[name], broken[name]) for name in whole)
    plain = trained(Toy(), tmp_path / "plain")
    assert whole.keys() != plain.keys() or any(not torch.equal(whole[name], plain[name]) for name in whole)


def engine(toy: Toy, out: Path, **changes: Any) -> Engine:
    from vitrail.training.distributed import joined
    chosen = settings(out, **{"accumulate": 1, **changes})
    with joined(chosen) as place:
        return Engine(toy, chosen, place)


def test_each_phase_moves_its_own_parameters_alone(tmp_path: Path) -> None:
    made = engine(Gan(), tmp_path / "run")
    batch = next(Gan().batches(0, 1).epoch(0))
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    seen: list[dict[str, bool]] = []
    adam_step = made.optimizer.step

    def look() -> None:
        adam_step()
        seen.append({name: not torch.equal(p, before[name]) for name, p in made.model.named_parameters()})
    made.optimizer.step = look                                               # type: ignore[method-assign]
    outcome = made.train(batch, 0, 1e-2, lambda: False)
    assert all(moved == name.startswith("discriminator") for name, moved in seen[0].items())
    assert all(seen[1].values()) and all(p.requires_grad for p in made.model.parameters())
    assert set(outcome.losses) == {"loss", "discriminator/loss", "discriminator/real", "generator/loss"}
    assert outcome.losses["loss"] == pytest.approx(
        outcome.losses["discriminator/loss"] + outcome.losses["generator/loss"])


@pytest.mark.parametrize(("phases", "said"), [
    ((), "none"), ((Phase(name="a", parameters=("nothing.*",), loss=Toy().loss),), "nothing learns"),
    ((Phase(name="a", parameters=("*",), loss=Toy().loss),) * 2, "names of their own")])
def test_phases_that_cannot_be_are_refused(phases: Any, said: str, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "phases", lambda self, model: phases, raising=False)
    with pytest.raises(TrainingError, match=said):
        engine(Toy(), tmp_path / "run")


def test_what_is_frozen_stays_and_so_do_its_statistics(tmp_path: Path) -> None:
    made = engine(Toy(norm=True), tmp_path / "run", freeze=("norm.*", "patch_embed.*"))
    before = {name: t.clone() for name, t in made.model.state_dict().items()}
    made.train(next(Toy().batches(0, 1).epoch(0)), 0, 1e-2, lambda: False)
    moved = {name for name, t in made.model.state_dict().items() if not torch.equal(t, before[name])}
    assert "head.weight" in moved and not any(name.startswith(("norm.", "patch_embed.")) for name in moved)
    other = engine(Toy(norm=True), tmp_path / "other")
    assert other.fingerprint != made.fingerprint, "a run does not go on with others frozen"


def test_rates_are_multiplied_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "learning_rates", lambda self, model: {"head.*": 0.5}, raising=False)
    made = engine(Toy(), tmp_path / "run", lr_factors=("blocks.*=0.1",), layer_decay=1.0)
    shares = {id(p): group["share"] for group in made.optimizer.param_groups for p in group["params"]}
    for name, parameter in made.model.named_parameters():
        wanted = 0.1 if name.startswith("blocks.") else 0.5 if name.startswith("head.") else 1.0
        assert shares[id(parameter)] == wanted, name


@pytest.mark.parametrize(("changes", "said"), [
    ({"freeze": ("blokcs.*",)}, "no parameter is called so"), ({"freeze": ("*",)}, "nothing to learn"),
    ({"lr_factors": ("nothing.*=2",)}, "no parameter is called so")])
def test_patterns_that_fit_nothing_are_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        engine(Toy(), tmp_path / "run", **changes)


@pytest.mark.parametrize("changes", [{"lr_factors": ("blocks",)}, {"lr_factors": ("blocks=x",)},
                                     {"lr_factors": ("a=-1",)},
                                     {"nesterov": True}, {"optimizer": "sgd", "momentum": 0.0, "nesterov": True},
                                     {"schedule": "step"}, {"lr_steps": (2.0,)}])
def test_settings_that_say_nothing_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        settings(tmp_path, **changes)


def test_schedules() -> None:
    def rates(**more: Any) -> list[float]:
        return [learning_rate(step, total=8, warmup=2, lr=1.0, min_lr=0.0, **more) for step in range(8)]
    assert rates(schedule="constant") == [0.5, *[1.0] * 7]
    assert rates(schedule="step", drops=[4, 6], gamma=0.1) == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates()[-1] < 0.1


def test_patience_ends_a_run_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.4, 0.6, 0.9, 0.9])
    monkeypatch.setattr(Toy, "evaluate", lambda self, *words: {"accuracy": next(scores)})
    with Run.open(settings(tmp_path / "run", epochs=6, patience=2)) as run:
        result = fit(Toy(), settings(tmp_path / "run", epochs=6, patience=2), run)
    assert (result.steps, result.chosen, result.score) == (20, 10, 0.6), "four epochs; the best was the 2nd"
