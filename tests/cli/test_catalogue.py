"""list, show, tree, diff."""
import pytest

from tests.cli.conftest import Ask
from vitrail.core.catalogue import KINDS, entries, names, variant_of


def test_list_shows_every_model_with_its_figures(ask: Ask) -> None:
    lines = ask("list").out.splitlines()
    assert lines[0].split() == ["name", "params", "GFLOPs", "size", "paper"]
    assert [line.split()[0] for line in lines[1:]] == list(names("backbone"))
    swin = next(line for line in lines if line.startswith("swin_t "))
    assert "28.3 M" in swin and "4.49" in swin and " 224 " in swin and "arXiv:2103.14030" in swin


@pytest.mark.parametrize(("words", "wanted"), [
    (["swin_?"], ["swin_t", "swin_s", "swin_b", "swin_l"]), (["*_s32*"], ["vit_s32", "vit_s32_384"]),
    (["vit_ti16_384"], ["vit_ti16_384"])])
def test_list_takes_a_pattern_or_a_part_of_a_name(ask: Ask, words: list[str], wanted: list[str]) -> None:
    assert {e["name"] for e in ask("list", *words, "--json").json} == set(wanted)


def test_list_takes_a_task_and_a_kind(ask: Ask) -> None:
    found = ask("list", "--task", "classification", "--kind", "backbone", "--json").json
    assert [e["name"] for e in found] == list(names("backbone"))
    assert found[0]["params"] == entries()[found[0]["name"]].params


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_and_every_name_of_it_shown(ask: Ask, kind: str) -> None:
    lines = ask("list", "--kind", kind).out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(names(kind))
    assert all(e["kind"] == kind for e in ask("list", "--kind", kind, "--json").json)
    for name in names(kind)[:3]:
        assert entries()[name].paper in ask("show", name).out
        assert ask("show", name, "--json").json["arguments"] is not None


def test_a_part_of_a_name_is_looked_for_in_every_kind(ask: Ask) -> None:
    assert "cross_covariance" in {e["name"] for e in ask("list", "covariance", "--json").json}


def test_show_tells_how_a_mechanism_grows_and_what_record_sees_of_it(ask: Ask) -> None:
    said = ask("show", "cross_covariance").out
    for part in ("time N, memory N", "between channels", "vitrail.attention.cross_covariance.CrossCovariance", "heads"):
        assert part in said
    assert ask("diff", "self_attention", "cross_covariance", "--json").json["figures"]["time"]["two"] == "N"


def test_show_tells_paper_arguments_and_releases_with_their_licences(ask: Ask) -> None:
    said = ask("show", "swin_t").out
    for part in ("28,288,354", "Liu et al. (2021)", "window", "depths", "(2, 2, 6, 2)", "ms_in1k", "MIT", "hf://timm/",
                 "top1 81.2 (README of microsoft/Swin-Transformer)"):
        assert part in said
    found = ask("--json", "show", "swin_t").json
    assert found["arguments"]["depths"] == [2, 2, 6, 2]
    assert [w["name"] for w in found["weights"]] == [w.name for w in variant_of("swin_t").weights]
    assert all(w["license"] and w["source"] for w in found["weights"])


def test_tree_follows_ideas_and_imports(ask: Ask) -> None:
    lines = ask("tree", "deit_s16_distilled").out.splitlines()
    assert "2012.12877" in lines[0]
    ideas = lines.index("builds on, as ideas [where the paper says so]:")
    assert lines[ideas + 1].startswith("├── backbones.vit: the network [section 3]  An Image is Worth 16x16 Words")
    assert lines[ideas + 2].startswith("│   ├── foundations.transformer: ") and "2010.11929" in lines[ideas + 1]
    imports = lines.index("its file imports:")
    assert lines[imports + 1].startswith("└── backbones.vit  An Image") and lines[imports + 2] == ""
    assert any(line.startswith("imported by: ") and "backbones.kvt" in line for line in lines)
    assert sum("conv_s2s" in line and "1705.03122" in line for line in lines) == 1, "told once"
    assert any("conv_s2s: translation without recurrence [section 2]  (above)" in line for line in lines)


def test_tree_answers_programs(ask: Ask) -> None:
    deit = ask("tree", "deit_s16_distilled", "--json").json
    assert [branch["module"] for branch in deit["imports"]] == ["backbones.vit"] and not deit["imports"][0]["imports"]
    assert [branch["module"] for branch in deit["builds_on"]] == ["backbones.vit", "distillation", "regnet"]
    assert deit["builds_on"][1] == {
        "module": "distillation", "paper": "Distilling the Knowledge in a Neural Network", "year": 2015,
        "arxiv": "1503.02531", "what": "learning from a teacher's answers", "source": "section 4", "repeated": False,
        "builds_on": []}
    assert "descendants" not in deit
    vit = ask("tree", "vit_s16", "--json").json
    assert {"backbones.swin", "backbones.deit"} <= set(vit["built_on_by"]) and "backbones.deit" in vit["imported_by"]
    assert "backbones.swin" not in vit["imported_by"]


def test_tree_goes_down_and_knows_papers_without_a_file(ask: Ask) -> None:
    lines = ask("tree", "sinusoidal", "--down").out
    assert "├── foundations.transformer: its positions [section 3.5]" in lines
    assert "│   ├── foundations.bert: the encoder [section 3]" in lines
    below = ask("tree", "sinusoidal", "--down", "--json").json
    assert [branch["module"] for branch in below["descendants"]] == below["built_on_by"]
    unet = ask("tree", "unet").out
    assert "U-Net" in unet and "no file here" in unet and "backbones.swin_unet" in unet
    assert ask("tree", "backbones.swin", "--json").json["module"] == "backbones.swin"
    assert ask("tree", "uent").code == 2
    assert "--picture" in ask("tree").err and ask("tree").code == 2


def test_show_and_diff_tell_ideas_and_imports(ask: Ask) -> None:
    lines = ask("show", "swin_t").out.splitlines()
    assert any(line.startswith("builds on  backbones.vit, ") for line in lines) and "imports    no other paper" in lines
    figures = ask("diff", "vit_s16", "deit_s16_distilled", "--json").json["figures"]
    assert figures["builds_on"]["two"] == "backbones.vit, distillation, regnet"
    assert figures["imports"] == {"one": "-", "two": "backbones.vit"}


def test_diff_tells_what_differs_and_what_does_not(ask: Ask) -> None:
    said = ask("diff", "swin_t", "swin_s").out
    assert "(2, 2, 18, 2)" in said and "window=7" in said
    found = ask("diff", "swin_t", "swin_s", "--json").json
    assert found["arguments"] == {"depths": {"one": [2, 2, 6, 2], "two": [2, 2, 18, 2]}}
    assert set(found["figures"]) == {"params", "gflops"} and "window" in found["same"]


def test_diff_of_two_papers_names_arguments_that_one_lacks(ask: Ask) -> None:
    found = ask("diff", "vit_s16", "swin_t", "--json").json
    assert found["figures"]["paper"]["one"] != found["figures"]["paper"]["two"]
    assert found["arguments"]["window"] == {"two": 7}
    assert "(no such argument)" in ask("diff", "vit_s16", "swin_t").out


def test_diff_of_a_model_with_itself_is_empty(ask: Ask) -> None:
    assert "differ in nothing" in ask("diff", "swin_t", "swin_t").out
    assert ask("diff", "swin_t", "swin_t", "--json").json["arguments"] == {}
