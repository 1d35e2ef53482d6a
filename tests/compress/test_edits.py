"""Edits: heads taken out, saved with the model, made again on load, exported and optimised."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vitrail
from vitrail.compress import edits
from vitrail.compress.edits import make_edit, register_edit
from vitrail.compress.heads import prunable
from vitrail.core.errors import CheckpointError, ModelError

ATTENTION = "backbone.blocks.0.mix.fn"


def small(**arguments: object) -> nn.Module:
    torch.manual_seed(0)
    model = vitrail.create_model("deit_ti16", classes=5, image=32, patch=8, dim=48, heads=4, depth=2, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():                # the head is zero, and would answer alike whatever it sees
            parameter.normal_(0, 0.2)
    return model


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def pruned() -> nn.Module:
    model = small()
    make_edit(model, "prune_heads", module=ATTENTION, heads=[1, 3])
    make_edit(model, "prune_heads", module="backbone.blocks.1.mix.fn", heads=[0])
    return model


def test_what_is_left_answers_as_if_the_others_were_silenced() -> None:
    """A head without its columns of the last projection says nothing."""
    silenced, model = small(), pruned()
    with torch.no_grad():
        for block, heads in ((0, (1, 3)), (1, (0,))):
            weight = silenced.get_submodule(f"backbone.blocks.{block}.mix.fn.out.proj").weight
            for head in heads:
                weight[:, 12 * head:12 * head + 12] = 0
        torch.testing.assert_close(model(images()), silenced(images()), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(images()), small()(images()))
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in silenced.parameters())


def test_an_edited_model_is_loaded_in_a_new_process(tmp_path: Path) -> None:
    model = pruned()
    vitrail.save_model(model, tmp_path / "pruned")
    torch.save(images(), tmp_path / "images.pt")
    code = ("import sys, torch, vitrail; torch.set_num_threads(1); model = vitrail.load_model(sys.argv[1])\n"
            "with torch.no_grad(): answer = model(torch.load(sys.argv[2], weights_only=True))\n"
            "print(answer.tolist()); print([e['heads'] for e in model.config.edits])")
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "pruned"), str(tmp_path / "images.pt")],
                         capture_output=True, text=True, check=True)
    answer, noted = map(json.loads, ran.stdout.splitlines())
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(answer), model(images()), rtol=1e-6, atol=1e-6)
    assert noted == [[1, 3], [0]]


def test_an_edited_model_is_exported_and_optimised(tmp_path: Path) -> None:
    model = pruned()
    pictures = [torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8) for _ in range(2)]
    artefact = vitrail.export(model, tmp_path / "pruned.onnx", images=pictures)
    assert artefact.difference <= 1e-4 * artefact.scale
    fast = vitrail.optimize(model, images())
    with torch.no_grad():
        torch.testing.assert_close(fast(images()), model(images()), rtol=1e-3, atol=1e-3)


def test_an_edited_model_learns_and_is_edited_again(tmp_path: Path) -> None:
    model = pruned().train()
    model(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    make_edit(model, "prune_heads", module=ATTENTION, heads=[0])            # of the two that were left
    assert model.get_submodule(ATTENTION).qkv.heads == 1
    vitrail.save_model(model, tmp_path / "again")
    assert len(vitrail.load_model(tmp_path / "again").config.edits) == 3


@pytest.mark.parametrize(("module", "heads", "said"), [
    (ATTENTION, [4], "4 heads, 0 to 3, and 4"), (ATTENTION, [-1], "and -1 is not"), (ATTENTION, [0, 1, 2, 3], "must "
                                                                                                              "stay"),
    ("backbone.blocks.0.mix.f", [0], "Did you mean 'backbone.blocks.0.mix.fn'")])
def test_what_cannot_be_pruned_is_said(module: str, heads: list[int], said: str) -> None:
    model = small()
    with pytest.raises(ModelError, match=said):
        make_edit(model, "prune_heads", module=module, heads=heads)
    assert model.config.edits == () and model.get_submodule(ATTENTION).qkv.heads == 4


def test_windows_lose_heads_too_and_a_network_with_a_bias_a_head_refuses() -> None:
    names = prunable(vitrail.create_model("vit_ti16", depth=2))
    assert names == ["backbone.blocks.0.mix.fn", "backbone.blocks.1.mix.fn"]
    assert prunable(vitrail.create_model("swin_t", depths=(1, 1, 1, 1))) == []


def test_unknown_edits_and_wrong_values_are_refused() -> None:
    model = small()
    with pytest.raises(ModelError, match="no edit 'prune_head'. Did you mean 'prune_heads'"):
        make_edit(model, "prune_head", module=ATTENTION, heads=[0])
    with pytest.raises(ModelError, match="does not take"):
        make_edit(model, "prune_heads", layer=0)
    with pytest.raises(ModelError, match="has none"):
        make_edit(nn.Linear(2, 2), "prune_heads", module="", heads=[0])


def test_a_change_that_was_not_noted_is_not_saved(tmp_path: Path) -> None:
    model = small()
    edits.apply_edits(model, [{"kind": "prune_heads", "module": ATTENTION, "heads": [0]}])
    with pytest.raises(ModelError, match="was changed since it was built"):
        vitrail.save_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_edit_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "_EDITS", dict(edits._EDITS))

    def shallow(model: nn.Module, *, depth: int) -> None:
        del model.get_submodule("backbone.blocks")[depth:]                  # type: ignore[attr-defined]

    register_edit("shallow", shallow)
    model = small()
    make_edit(model, "shallow", depth=1)
    vitrail.save_model(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(vitrail.load_model(tmp_path / "model")(images()), model(images()))
    with pytest.raises(ModelError, match="vitrail's own"):
        register_edit("prune_heads", shallow)
    del edits._EDITS["shallow"]
    with pytest.raises((ModelError, CheckpointError), match="no edit 'shallow'.*register_edit"):
        vitrail.load_model(tmp_path / "model")
