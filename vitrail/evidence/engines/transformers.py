"""The networks of the package transformers that equal one of ours: their configuration and the names of their tensors.

Theirs is built from our model's settings, so every size of a family has one.
"""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitrail.core import catalogue
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.evidence.engines.forward import CLASSES, in_layout
from vitrail.tasks.classification.model import Classifier

QKV = Fold(lambda *parts: torch.cat(parts), lambda qkv: qkv.chunk(3))
KV = Fold(lambda *parts: torch.cat(parts), lambda kv: kv.chunk(2))
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Counterpart:
    """A class of transformers, the arguments of its configuration, and the tensors of one of ours under its names.

    epsilons: patterns of modules' names -> what their norms add to the variance, where one number for all, as the
    configuration has it, is not what the published weights were trained with.
    """

    network: str
    config: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    epsilons: dict[str, float] = field(default_factory=dict)


def counterpart(model: Classifier) -> Counterpart:
    """Raises ModelError where transformers has none that is known to be the same network."""
    name = model.config.model
    module = catalogue.find(name).module
    if module not in _FAMILIES:
        raise ModelError(f"{name} has no counterpart in transformers")
    settings = {**catalogue.variant_of(name).settings(), **model.config.arguments}
    return _FAMILIES[module](model, settings)


def _vit(model: Classifier, settings: Settings) -> Counterpart:
    """ViT, and DeiT without distillation, which is one; DeiT with its second token is a class of its own there."""
    distilled = settings.get("tokens", 1) == 2
    there = "deit" if distilled else "vit"
    table = _blocks(f"{there}.layers.{{}}.", "blocks.{}.") | {
        f"{there}.embeddings.cls_token": "cls_token", f"{there}.embeddings.position_embeddings": "pos_embed",
        f"{there}.embeddings.patch_embeddings.projection.*": "patch_embed.proj.*", f"{there}.layernorm.*": "norm.*"}
    table |= {"deit.embeddings.distillation_token": "dist_token", "cls_classifier.*": "head.*",
              "distillation_classifier.*": "head_dist.*"} if distilled else {"classifier.*": "head.*"}
    keys = Keys(table, rows=[_attention(f"{there}.layers.{{}}.", "blocks.{}.")])
    arguments = {"hidden_size": settings["dim"], "num_hidden_layers": settings["depth"], "layer_norm_eps": 1e-6,
                 "num_attention_heads": settings["heads"], "image_size": settings["image"],
                 "intermediate_size": int(settings["dim"] * settings["mlp_ratio"]), "patch_size": settings["patch"]}
    network, config = ("DeiTForImageClassificationWithTeacher", "DeiTConfig") if distilled else \
        ("ViTForImageClassification", "ViTConfig")
    return Counterpart(network=network, config=config, arguments=_labelled(arguments),
                       tensors=keys.restore(in_layout(model, "timm")))


def _swin(model: Classifier, settings: Settings) -> Counterpart:
    there, here = "swin.encoder.layers.{}.blocks.{}.", "layers.{}.blocks.{}."
    table = _blocks(there, here) | {
        there + "attention.relative_position_bias.*": here + "attn.*", "swin.layernorm.*": "norm.*",
        "swin.embeddings.patch_embeddings.projection.*": "patch_embed.proj.*", "classifier.*": "head.fc.*",
        "swin.embeddings.norm.*": "patch_embed.norm.*",
        **{f"swin.encoder.layers.{i}.downsample.*": f"layers.{i + 1}.downsample.*"      # theirs end a stage with it
           for i in range(len(settings["depths"]) - 1)}}
    arguments = {"embed_dim": settings["dim"], "depths": list(settings["depths"]), "patch_size": settings["patch"],
                 "num_heads": list(settings["heads"]), "window_size": settings["window"],
                 "mlp_ratio": settings["mlp_ratio"], "image_size": catalogue.find(model.config.model).image}
    return Counterpart(network="SwinForImageClassification", config="SwinConfig", arguments=_labelled(arguments),
                       tensors=Keys(table, rows=[_attention(there, here)]).restore(in_layout(model, "timm")))


def _pvt(model: Classifier, settings: Settings) -> Counterpart:
    arguments = {**_pyramid(settings), "image_size": settings["image"],
                 "sequence_reduction_ratios": list(settings["reductions"])}
    return Counterpart(network="PvtForImageClassification", config="PvtConfig", arguments=_labelled(arguments),
                       tensors=in_layout(model, "transformers"),
                       epsilons={"*.patch_embeddings.*.layer_norm": 1e-5, "*.attention.self.layer_norm": 1e-5})


def _pvt_v2(model: Classifier, settings: Settings) -> Counterpart:
    there, here = "pvt_v2.encoder.layers.{}.blocks.{}.", "stages.{}.blocks.{}."
    at = there + "attention."
    table = {there + "layer_norm_1.*": here + "norm1.*", there + "layer_norm_2.*": here + "norm2.*",
             at + "query.*": here + "attn.q.*", at + "proj.*": here + "attn.proj.*",
             at + "spatial_reduction.*": here + "attn.sr.*", at + "layer_norm.*": here + "attn.norm.*",
             there + "mlp.dense1.*": here + "mlp.fc1.*", there + "mlp.dense2.*": here + "mlp.fc2.*",
             there + "mlp.dwconv.dwconv.*": here + "mlp.dwconv.*", "classifier.*": "head.*",
             "pvt_v2.encoder.layers.{}.layer_norm.*": "stages.{}.norm.*",
             "pvt_v2.encoder.layers.0.patch_embedding.proj.*": "patch_embed.proj.*",
             "pvt_v2.encoder.layers.0.patch_embedding.layer_norm.*": "patch_embed.norm.*",
             "pvt_v2.encoder.layers.{}.patch_embedding.proj.*": "stages.{}.downsample.proj.*",
             "pvt_v2.encoder.layers.{}.patch_embedding.layer_norm.*": "stages.{}.downsample.norm.*"}
    keys = Keys(table, rows=[Row((at + "key.*", at + "value.*"), here + "attn.kv.*", KV)])
    arguments = {**_pyramid(settings), "linear_attention": bool(settings["pool"]),
                 "sr_ratios": list(settings["reductions"]), "image_size": catalogue.find(model.config.model).image}
    return Counterpart(network="PvtV2ForImageClassification", config="PvtV2Config", arguments=_labelled(arguments),
                       tensors=keys.restore(in_layout(model, "timm")),
                       epsilons={"*.patch_embedding.layer_norm": 1e-5, "*.attention.layer_norm": 1e-5})


def _pyramid(settings: Settings) -> dict[str, Any]:
    """What PVT's two configurations share."""
    return {"hidden_sizes": list(settings["dims"]), "depths": list(settings["depths"]),
            "num_attention_heads": list(settings["heads"]), "mlp_ratios": list(settings["mlp_ratios"])}


def _blocks(there: str, here: str) -> dict[str, str]:
    """A Transformer's block but for queries, keys and values."""
    return {there + "layernorm_before.*": here + "norm1.*", there + "layernorm_after.*": here + "norm2.*",
            there + "attention.o_proj.*": here + "attn.proj.*", there + "mlp.*": here + "mlp.*"}


def _attention(there: str, here: str) -> Row:
    return Row((*(f"{there}attention.{part}_proj.*" for part in "qkv"),), here + "attn.qkv.*", QKV)


def _labelled(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "num_labels": CLASSES}


_FAMILIES = {"backbones.vit": _vit, "backbones.deit": _vit, "backbones.swin": _swin, "backbones.pvt": _pvt,
             "backbones.pvt_v2": _pvt_v2}
