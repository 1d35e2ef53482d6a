"""Mechanisms that leave out most pairs of tokens: by a hash, by a plan of blocks."""
import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.attention.proof import Proof, apart, draw
from vitrail.attention.big_bird import BlockSparseAttention, random_blocks
from vitrail.attention.reformer import HashedAttention, Reformer, earlier
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.testing.noise import fill_


def model_of(name: str) -> Any:
    """A module of transformers with a model's code."""
    import_torchvision()
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def hashed(ours: HashedAttention, theirs: Any) -> None:
    """The weights of transformers' attention, and the directions that it draws in each run.

    It adds 1e-6 to the mean square of a key before it divides by the root, so its keys are made larger than that. And
    all is in float64: it leaves a token that sees only itself the score -1e5, which float32 knows to 0.008, so that
    the weights of its rounds do not add up to one.
    """
    lsh, state = theirs.self_attention, ours.state_dict()
    lsh.query_key.weight.data *= 4
    factors = [lsh.num_buckets] if isinstance(lsh.num_buckets, int) else lsh.num_buckets
    torch.manual_seed(lsh.hash_seed)
    drawn = torch.randn(lsh.num_attention_heads, lsh.attention_head_size, lsh.num_hashes, sum(factors) // 2,
                        dtype=torch.float64)
    state["directions"][..., :drawn.shape[-1]] = drawn
    state["qv.proj.weight"] = torch.cat([lsh.query_key.weight, lsh.value.weight])
    state["out.weight"] = theirs.output.dense.weight
    ours.load_state_dict(state)


def reformer_config(buckets: int | list[int], rounds: int, chunk: int, *, decoder: bool = False) -> Any:
    return model_of("reformer").ReformerConfig(
        hidden_size=32, num_attention_heads=4, attention_head_size=8, attn_layers=["lsh", "lsh"], num_hashes=rounds,
        num_buckets=buckets, lsh_attn_chunk_length=chunk, hash_seed=3, is_decoder=decoder, feed_forward_size=64,
        hidden_dropout_prob=0.0, lsh_attention_probs_dropout_prob=0.0, max_position_embeddings=256)


def lsh(tokens: int, rounds: int, chunk: int, buckets: int | list[int], *, decoder: bool = False) -> float:
    """With tokens that no chunk divides, transformers is handed the filling and its mask."""
    config = reformer_config(buckets, rounds, chunk, decoder=decoder)
    theirs = model_of("reformer").ReformerAttention(config).double().eval()
    fill_(theirs)
    theirs.layer_norm = nn.Identity()
    ours = HashedAttention(32, 4, chunk=chunk, rounds=rounds, sees=earlier if decoder else None).double()
    hashed(ours, theirs)
    x = draw(2, tokens, 32, dtype=torch.float64)
    filled = nn.functional.pad(x, (0, 0, 0, -tokens % chunk))
    mask = (torch.arange(filled.shape[1]) < tokens).expand(2, -1) if tokens % chunk else None
    with torch.no_grad():
        return apart(ours(x), theirs(filled, attention_mask=mask).hidden_states[:, :tokens])


def stack(tokens: int) -> float:
    """The reversible encoder: its output, and the gradients of its input and of a first weight."""
    theirs = model_of("reformer").ReformerEncoder(reformer_config(2 * tokens // 8, 2, 8)).double().train()
    fill_(theirs)
    ours = Reformer(32, 4, depth=2, mlp_ratio=2.0, chunk=8, rounds=2).double()
    for layer, other in zip(ours.layers.layers(), theirs.layers, strict=True):
        hashed(layer.f.get_submodule("mix"), other.attention)        # type: ignore[arg-type]
        layer.f.get_submodule("norm").load_state_dict(other.attention.layer_norm.state_dict())
        layer.g.get_submodule("norm").load_state_dict(other.feed_forward.layer_norm.state_dict())
        layer.g.get_submodule("mlp.fc1").load_state_dict(other.feed_forward.dense.dense.state_dict())
        layer.g.get_submodule("mlp.fc2").load_state_dict(other.feed_forward.output.dense.state_dict())
    ours.norm.load_state_dict(theirs.layer_norm.state_dict())
    for part in (*ours.modules(), *theirs.modules()):
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    x, d = draw(2, tokens, 32, dtype=torch.float64), draw(2, tokens, 64, seed=1, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, other = ours(a), theirs(b).hidden_states
    mine.backward(d)
    other.backward(d)
    assert a.grad is not None and b.grad is not None
    first = ours.get_parameter("layers.0.g.mlp.fc1.weight").grad
    assert first is not None
    return max(apart(mine, other), apart(a.grad, b.grad),
               apart(first, theirs.layers[0].feed_forward.dense.dense.weight.grad))


def one_query_at_a_time(tokens: int, rounds: int, chunk: int) -> float:
    """Section 2 for each query alone: the keys of its chunk and of the one before, in the order of buckets."""
    ours = HashedAttention(8, 2, chunk=chunk, rounds=rounds, seed=5).double()
    x = draw(1, tokens, 8, dtype=torch.float64)
    with torch.no_grad():
        qk, v = (t[0] for t in ours.qv(x))
        told = torch.zeros(2, tokens, 4, dtype=torch.float64)
        filled, buckets = -(-tokens // chunk) * chunk, 1
        while 2 * buckets <= 2 * filled // chunk:
            buckets *= 2
        for h in range(2):
            order = []                                              # of all rounds, behind each other
            for r in range(rounds):
                near = qk[h] @ ours.directions[h, :, r, :buckets // 2]
                bucket = torch.cat([near, -near], -1).argmax(-1).tolist()
                order.append(sorted(range(tokens), key=lambda i: (bucket[i], i)) + [-1] * (filled - tokens))
            for i in range(tokens):
                outs, sums = [], []
                for r in range(rounds):
                    own = order[r].index(i) // chunk
                    line = [*order[r - 1][-chunk:], *order[r]]
                    keys = [j for j in line[own * chunk:(own + 2) * chunk] if j not in (-1, i)]
                    scores = torch.stack([qk[h, i] @ qk[h, j] / qk[h, j].norm() for j in keys])
                    outs.append(scores.softmax(0) @ v[h, keys])
                    sums.append(scores.exp().sum())
                told[h, i] = sum(s * o for s, o in zip(sums, outs, strict=True)) / sum(sums)
        return apart(ours(x), ours.out(told.transpose(0, 1).flatten(1))[None])


def big_bird_pair(ours: BlockSparseAttention) -> Any:
    """transformers' attention in training mode (in evaluation its random blocks are all block 0), filled with noise and
    carried over."""
    big_bird = model_of("big_bird")
    theirs = big_bird.BigBirdBlockSparseAttention(big_bird.BigBirdConfig(
        hidden_size=32, num_attention_heads=4, block_size=ours.block, num_random_blocks=ours.picks,
        attention_probs_dropout_prob=0.0, max_position_embeddings=512), seed=7).train()
    fill_(theirs)
    parts = (theirs.query, theirs.key, theirs.value)
    ours.qkv.proj.load_state_dict({"weight": torch.cat([p.weight for p in parts]),
                                   "bias": torch.cat([p.bias for p in parts])})
    ours.out.proj.load_state_dict({"weight": torch.eye(32), "bias": torch.zeros(32)})
    return theirs


def run_big_bird(theirs: Any, x: Tensor, block: int) -> Tensor:
    tokens = x.shape[1]
    filled = nn.functional.pad(x, (0, 0, 0, -tokens % block))
    mask = (torch.arange(filled.shape[1]) < tokens).float().expand(x.shape[0], -1)
    blocked, band, rows, columns = model_of("big_bird").BigBirdModel.create_masks_for_block_sparse_attn(mask, block)
    out: Tensor = theirs(filled, band, rows, columns, blocked, blocked)[0]
    return out[:, :tokens]


def their_plan(tokens: int, block: int, picks: int) -> float:
    """The random blocks that transformers draws, read off while it runs and handed to ours."""
    drawn: list[Any] = []

    def plan(heads: int, blocks: int, picks: int, seed: int) -> list[list[list[int]]]:
        return [head.tolist() for head in drawn[0]]
    ours = BlockSparseAttention(32, 4, block=block, picks=picks, plan=plan)
    theirs = big_bird_pair(ours)
    draws = theirs._bigbird_block_rand_mask_with_head

    def overheard(**settings: Any) -> Any:
        drawn.append(draws(**settings))
        return drawn[-1]
    theirs._bigbird_block_rand_mask_with_head = overheard
    x = draw(2, tokens, 32)
    with torch.no_grad():
        told = run_big_bird(theirs, x, block)
        return apart(ours(x), told)


def our_plan(tokens: int, block: int, picks: int) -> float:
    """Our random blocks in the place of those that transformers draws."""
    ours = BlockSparseAttention(32, 4, block=block, picks=picks)
    theirs = big_bird_pair(ours)
    plan = np.array(random_blocks(4, -(-tokens // block), picks, 0))
    theirs._bigbird_block_rand_mask_with_head = lambda **settings: list(plan)
    x = draw(2, tokens, 32)
    with torch.no_grad():
        return apart(ours(x), run_big_bird(theirs, x, block))


def masked(tokens: int, block: int, picks: int) -> float:
    """One softmax over all tokens under the mask that the plan spells out."""
    ours = BlockSparseAttention(16, 2, block=block, picks=picks, seed=4).double()
    x, blocks = draw(2, tokens, 16, dtype=torch.float64), -(-tokens // block)
    seen = torch.zeros(2, blocks, blocks, dtype=torch.bool)
    seen[:, (0, -1)] = seen[:, :, (0, -1)] = True
    for h, head in enumerate(random_blocks(2, blocks, picks, 4)):
        for i, row in enumerate(head, 1):
            seen[h, i, [i - 1, i, i + 1, *row]] = True
    seen = seen.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :tokens, :tokens]
    with torch.no_grad():
        q, k, v = ours.qkv(x)
        scores = (q @ k.mT / 8 ** 0.5).masked_fill(~seen, float("-inf"))
        return apart(ours(x), ours.out(scores.softmax(-1) @ v))


PROOFS = [
    Proof(name="reformer", how="package", reference="transformers ReformerAttention, 3 rounds and 1, 64 and 50 tokens",
          difference=lambda: max(lsh(64, 3, 8, 16), lsh(64, 1, 8, 16), lsh(50, 3, 8, 8))),
    Proof(name="reformer", how="package", reference="transformers ReformerAttention, buckets of two digits, 256 tokens",
          difference=lambda: lsh(256, 2, 4, [8, 16])),
    Proof(name="reformer", how="package", reference="transformers ReformerAttention, as a decoder, and in one chunk",
          difference=lambda: max(lsh(64, 2, 8, 16, decoder=True), lsh(50, 3, 8, 8, decoder=True), lsh(8, 2, 8, 16))),
    Proof(name="reformer", how="package", reference="transformers ReformerEncoder, its output and gradients, 2 sizes",
          difference=lambda: max(stack(64), stack(32))),
    Proof(name="reformer", how="property", reference="one query at a time, 21 and 24 tokens",
          difference=lambda: max(one_query_at_a_time(21, 3, 4), one_query_at_a_time(24, 1, 4)), tolerance=1e-12),
    Proof(name="big_bird", how="package", reference="transformers BigBirdBlockSparseAttention with its plan, 3 sizes",
          difference=lambda: max(their_plan(48, 4, 2), their_plan(77, 4, 2), their_plan(52, 4, 3))),
    Proof(name="big_bird", how="package", reference="transformers BigBirdBlockSparseAttention with our plan, 2 sizes",
          difference=lambda: max(our_plan(64, 4, 3), our_plan(85, 5, 2))),
    Proof(name="big_bird", how="property", reference="a dense softmax under the explicit mask, 3 sizes",
          difference=lambda: max(masked(64, 4, 3), masked(61, 4, 2), masked(45, 5, 3)), tolerance=1e-12),
]
