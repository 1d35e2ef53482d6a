"""What plain and cross-covariance attention are compared with: torch and timm."""
import torch
from torch import nn

from tests.attention.proof import Proof, apart, draw
from vitrail.attention.cross_covariance import CrossCovariance
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.nn import SelfAttention
from vitrail.testing.noise import fill_


@torch.no_grad()
def self_attention_against_torch() -> float:
    found = []
    for n, dim, heads in ((36, 32, 4), (7, 12, 3)):
        theirs = nn.MultiheadAttention(dim, heads, batch_first=True)
        ours, x = SelfAttention(dim, heads), draw(2, n, dim)
        fill_(theirs)
        ours.load_state_dict({"qkv.proj.weight": theirs.in_proj_weight, "qkv.proj.bias": theirs.in_proj_bias,
                              "out.proj.weight": theirs.out_proj.weight, "out.proj.bias": theirs.out_proj.bias})
        found.append(apart(ours(x), theirs(x, x, x, need_weights=False)[0]))
    return max(found)


@torch.no_grad()
def cross_covariance_against_timm() -> float:
    import_torchvision()
    from timm.models.xcit import XCA
    found = []
    for h, w, dim, heads in ((6, 6, 32, 4), (3, 5, 12, 3)):
        theirs, ours, x = XCA(dim, heads, qkv_bias=True), CrossCovariance(dim, heads), draw(2, h, w, dim)
        fill_(theirs)
        names = {"temperature": "temperature", "qkv.": "qkv.proj.", "proj.": "out.proj."}
        ours.load_state_dict({next(b + k.removeprefix(a) for a, b in names.items() if k.startswith(a)): v
                              for k, v in theirs.state_dict().items()})
        found.append(apart(ours(x).flatten(1, 2), theirs(x.flatten(1, 2))))
    return max(found)


PROOFS = [
    Proof(name="self_attention", how="package", reference="torch.nn.MultiheadAttention, two sizes",
          difference=self_attention_against_torch),
    Proof(name="cross_covariance", how="package", reference="timm XCA, two sizes; whole networks in docs/parity.md",
          difference=cross_covariance_against_timm),
]
