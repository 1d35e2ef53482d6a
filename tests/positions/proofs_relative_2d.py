"""What relative places in two dimensions are compared with: timm, a gather by index, and their own other form."""
import torch
from torch import Tensor

from tests.attention.proof import Proof, apart, draw
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.nn import Attend
from vitrail.positions.relative_2d import RelativeLogits2d
from vitrail.testing.noise import fill_

GRIDS = ((6, 6), (3, 7))


def gathered(position: RelativeLogits2d, q: Tensor) -> Tensor:
    """The logits with a vector for each pair of places, picked by the offset of key from query."""
    h, w = position.grid
    y, x = (t.flatten() for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    pairs = position.rows[y - y[:, None] + h - 1] + position.columns[x - x[:, None] + w - 1]        # (N, N, D)
    return torch.einsum("...id,ijd->...ij", q, pairs)


@torch.no_grad()
def against_timm() -> float:
    import_torchvision()
    from timm.layers.bottleneck_attn import PosEmbedRel
    differences: list[float] = []
    for grid in GRIDS:
        theirs, ours, q = PosEmbedRel(grid, 8, 1.0), RelativeLogits2d(grid, 8), draw(6, grid[0] * grid[1], 8)
        fill_(theirs)
        ours.load_state_dict({"rows": theirs.height_rel, "columns": theirs.width_rel})
        differences.append(apart(ours(q, grid), theirs(q)))
    return max(differences)


@torch.no_grad()
def against_a_gather() -> float:
    differences: list[float] = []
    for grid in GRIDS:
        position, q = RelativeLogits2d(grid, 5).double(), draw(2, 3, grid[0] * grid[1], 5, dtype=torch.float64)
        differences.append(apart(position(q, grid), gathered(position, q)))
    return max(differences)


@torch.no_grad()
def widened_against_logits() -> float:
    """The same attention, by wider queries and keys and by logits that are added."""
    differences: list[float] = []
    for grid in GRIDS:
        position = RelativeLogits2d(grid, 5).double()
        q, k, v = (draw(2, 3, grid[0] * grid[1], 5, seed=i, dtype=torch.float64) for i in range(3))
        wide_q, wide_k = position.widen(q, k, grid)
        added = Attend()(q, k, v, position(q, grid), scale=1.0)
        differences.append(apart(Attend()(wide_q, wide_k, v, scale=1.0), added))
    return max(differences)


PROOFS = [
    Proof(name="relative_2d", how="package", reference="timm PosEmbedRel, two grids", difference=against_timm),
    Proof(name="relative_2d", how="property", reference="a gather by index, two grids, float64",
          difference=against_a_gather, tolerance=1e-12),
    Proof(name="relative_2d", how="property", reference="its two forms in attention, two grids, float64",
          difference=widened_against_logits, tolerance=1e-12),
]
