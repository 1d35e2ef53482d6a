"""What most releases call the tensors of the words here, as parts of a key table (`core.keys`)."""
from vitrail.core.jax_keys import CONV, TRANSPOSE, attention_in, attention_out
from vitrail.core.keys import Row


def block_names(there: str, here: str) -> dict[str, str]:
    """A pre-norm block of self-attention and an Mlp, as timm and those who build on it name it."""
    return {there + "norm1.*":     here + "mix.norm.*",
            there + "attn.qkv.*":  here + "mix.fn.qkv.proj.*",
            there + "attn.proj.*": here + "mix.fn.out.proj.*",
            there + "norm2.*":     here + "mlp.norm.*",
            there + "mlp.*":       here + "mlp.fn.*"}


def conv_norm_names(there: str, here: str, *parts: tuple[str, str, str]) -> dict[str, str]:
    """Convolutions with their norms (`conv_norm`): each of `parts` says (convolution there, norm there, part here)."""
    return {f"{there}{theirs}.*": f"{here}{part}.{ours}.*" for conv, norm, part in parts
            for theirs, ours in ((conv, "conv"), (norm, "norm"))}


def flax_rows(heads: int, *, attention: str, norms: tuple[str, str], mlp: str) -> tuple[list[Row], dict[str, str]]:
    """The rows and the table of an encoder, a head and a patch projection as the JAX code of ViT's authors names
    them."""
    weight, bias = attention_in(heads, 3)
    there, here = "Transformer/encoderblock_{}/", "backbone.blocks.{}."
    at = there + attention + "/"
    rows = [
        Row(("embedding/kernel",), "backbone.patch_embed.proj.weight", CONV),
        Row(tuple(f"{at}{n}/kernel" for n in ("query", "key", "value")), here + "mix.fn.qkv.proj.weight", weight),
        Row(tuple(f"{at}{n}/bias" for n in ("query", "key", "value")), here + "mix.fn.qkv.proj.bias", bias),
        Row((at + "out/kernel",), here + "mix.fn.out.proj.weight", attention_out(heads)),
        *(Row((f"{there}{mlp}/Dense_{i}/kernel",), f"{here}mlp.fn.fc{i + 1}.weight", TRANSPOSE) for i in (0, 1)),
        Row(("head/kernel",), "head.linear.weight", TRANSPOSE),
    ]
    table = {"embedding/bias": "backbone.patch_embed.proj.bias", at + "out/bias": here + "mix.fn.out.proj.bias",
             "Transformer/encoder_norm/scale": "backbone.norm.weight",
             "Transformer/encoder_norm/bias": "backbone.norm.bias", "head/bias": "head.linear.bias"}
    for norm, part in zip(norms, ("mix", "mlp"), strict=True):
        table |= {f"{there}{norm}/scale": f"{here}{part}.norm.weight", f"{there}{norm}/bias": f"{here}{part}.norm.bias"}
    for i in (0, 1):
        table |= {f"{there}{mlp}/Dense_{i}/bias": f"{here}mlp.fn.fc{i + 1}.bias"}
    return rows, table
