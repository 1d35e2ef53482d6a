"""The claims of the field, in full: here the exact ones and those of cost. Imports no torch."""
from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.evidence.claims.claim import Claim, Kind
from vitrail.evidence.claims.learning import LEARNING

_SEEDS = "five seeds, float64"
_EXACT = "1e-10 of the answers' deviation"


def _claim(id: str, kind: Kind, module: str, says: str, *, source: str, miniature: str, statistic: str,
           refuted_by: str) -> tuple[str, Claim]:
    return id, Claim(id=id, kind=kind, module=module, says=says, source=source, miniature=miniature,
                     statistic=statistic, refuted_by=refuted_by)


CLAIMS: dict[str, Claim] = dict([
    _claim("permutation", "exact", "exact.order",
           "Self-attention without positions is permutation-equivariant: \"Deepak is the son of Pradeep\" and its swap "
           "are told apart only with positions.",
           source="Vaswani et al., arXiv:1706.03762, section 3.5; Lee et al., arXiv:1810.00825, section 2",
           miniature=f"one layer and an encoder of two blocks, 24 random tokens under a random permutation; then both "
                     f"sentences as embedded words; without positions, with sinusoidal and with learned ones; {_SEEDS}",
           statistic="the largest difference between the outputs of permuted tokens and the permuted outputs; and "
                     "between a word's vector in one sentence and in the other; over the outputs' deviation",
           refuted_by=f"without positions more than {_EXACT}, or with them less than 1 % of it"),
    _claim("sine_shift", "exact", "exact.places",
           "With sines and cosines, PE(x + d) = PE(x) T(d) for one rotation T(d); integer, normalised, binary and "
           "sine-only codes fail, each in its own way: growing values, steps that depend on the length, unequal "
           "distances between neighbours, a closed loop without any T.",
           source="Vaswani et al., arXiv:1706.03762, section 3.5, and the steps of thought that lead there",
           miniature="512 places, widths 2, 8 and 64, six shifts; the other codes at 8 channels and up to 513 places; "
                     "formulas, so no seeds; float64",
           statistic="the largest entry of PE(p) T(d) - PE(p + d) and of T Tᵀ - I; for each code the growth of its "
                     "values, its change with the length, the ratio of its longest to its shortest step, the gap where "
                     "its loop closes, and what the best T(3) leaves unexplained by least squares",
           refuted_by="an entry beyond 1e-10; a predecessor without its ailment; an ailment in sines and cosines"),
    _claim("conv_is_attention", "exact", "exact.places",
           "Gated positional self-attention with k² heads, its positions and values initialised as in ConViT, equals a "
           "convolution as the locality grows and the gates open.",
           source="d'Ascoli et al., arXiv:2103.10697, section 3; Cordonnier et al., arXiv:1911.03584, theorem 1",
           miniature=f"2², 3², 4² and 5² heads on 7 x 9 maps, localities 1 to 80, open gates; the convolution's kernel "
                     f"is read off the output projection; {_SEEDS}",
           statistic="the largest difference between the two over the convolution's deviation, border included; the "
                     "same for the released start (locality 1, gates at σ(1)), which is reported and not judged",
           refuted_by=f"more than {_EXACT} at locality 80, for any number of heads"),
    _claim("translation", "exact", "exact.places",
           "Convolution is translation-equivariant; attention with absolute positions is not; with relative positions "
           "it is: stand-alone attention in its outputs, attention-augmented convolution in its weights.",
           source="Bello et al., arXiv:1904.09925, section 3.2; Ramachandran et al., arXiv:1906.05909, section 2.2",
           miniature="a random 11 x 12 map whose content moves by (2, 1); 3 x 3 convolution, stand-alone attention of "
                     f"window 5, relative attention over all places, self-attention with learned and with sine "
                     f"positions; {_SEEDS}",
           statistic="for the local layers, outputs at places whose surroundings moved along; for attention over the "
                     "whole map, the weights among places there before and after, made to sum up to one; the largest "
                     "difference over the deviation",
           refuted_by=f"more than {_EXACT} for the first and the last two, or less than 1 % of it for absolute "
                      "positions"),
    _claim("criss_cross_reach", "exact", "exact.reach",
           "One criss-cross attention sees h + w - 1 places, two see all.",
           source="Huang et al., arXiv:1811.11721, sections 3.2 and 3.3",
           miniature=f"maps of 3 x 4, 7 x 9, 8 x 8 and 1 x 6, every place of each; {_SEEDS}",
           statistic="the set of places with a gradient to a place's answer",
           refuted_by="a place whose set after one round is not its row and column, or after two not the whole map"),
    _claim("linear_forms", "exact", "exact.sums",
           "Linear attention computed in O(N) equals its explicit O(N²) form; the causal one equals the prefix sums.",
           source="Katharopoulos et al., arXiv:2006.16236, equations 4 to 12 and 16 to 20",
           miniature=f"lengths 1, 7, 64, 257 and 1,500, two heads of 8 channels; {_SEEDS}",
           statistic="the largest difference over the outputs' deviation: against N x N weights, against a D x D "
                     "prefix sum for each token, and against the recurrence token by token",
           refuted_by=f"more than {_EXACT} in any pair"),
    _claim("masked", "exact", "exact.reach",
           "A masked decoder's output at t does not depend on inputs after t.",
           source="Vaswani et al., arXiv:1706.03762, section 3.2.3; Radford et al. 2019",
           miniature=f"a small GPT and the decoder of a small Transformer, 24 tokens, every t; {_SEEDS}",
           statistic="the largest change of the logits up to t when every later token is exchanged, and the smallest "
                     "change after t, over the logits' deviation",
           refuted_by="a change beyond 1e-12 up to t; or none after t, which would make the test empty"),
    _claim("relevance_sum", "exact", "exact.relevance",
           "Relevance propagation conserves its total from layer to layer.",
           source="Bach et al. 2015; Chefer et al., arXiv:2012.09838, sections 3.1 and 3.2",
           miniature="ViTs of 4 and of 12 blocks with random weights, two random images, all five classes; the rules "
                     f"for linear layers, norms, activations, residuals and both products of attention; {_SEEDS}",
           statistic="the sum of relevance behind the head, the pooling and every half of a block, down to tokens and "
                     "positions, where the logit has 1",
           refuted_by="a sum that departs from 1 by more than 1e-8 behind any of them"),
    _claim("point_invariance", "exact", "exact.order",
           "Point Transformer, PCT and PointNet do not depend on the order of points.",
           source="Qi et al., arXiv:1612.00593, section 4.2; Zhao et al., arXiv:2012.09164; Guo et al., "
                  "arXiv:2012.09688",
           miniature="200 random points, permuted: point transformer layer, offset attention, and PointNet's form, a "
                     f"network shared by all points under a maximum; {_SEEDS}",
           statistic="the largest difference of a point's answer, and of the maximum and mean over all points, between "
                     "the two orders, over the deviation",
           refuted_by=f"more than {_EXACT}"),
    _claim("matcher", "exact", "exact.sums",
           "The Hungarian assignment equals brute force on small sets.",
           source="Kuhn 1955; Carion et al., arXiv:2005.12872, section 3.1",
           miniature="every 3 x 3 table of the costs 0, 1 and 2; 20 random tables of every size from 1 x 1 to 6 x 6 "
                     "for each of five seeds",
           statistic="the gap between the solver's total and the least total over all assignments",
           refuted_by="a gap beyond 1e-12, or an answer that takes a row or column twice"),
    _claim("cost_exponents", "cost", "cost.tokens",
           "Time and memory against tokens N: softmax N², criss-cross N^1.5; Reformer N log N; Linformer, linear, "
           "clustered, BigBird and window attention N.",
           source="the mechanisms' papers: arXiv:1706.03762, 1811.11721, 2001.04451, 2006.04768, 2006.16236, "
                  "2007.04825, 2007.14062, 2103.14030",
           miniature="each as the token mixer of a block, 256 channels, 4 heads, one square map of 2,304 to 16,384 "
                     "tokens, inference, in turns in one process, five rounds; softmax's memory in its explicit form, "
                     "up to 6,400 tokens, because the fused kernel holds no map",
           statistic="the exponent of a power law through median times (with a 95 % bootstrap interval) and through "
                     "counted peaks of memory",
           refuted_by="softmax below 1.8 in either; criss-cross above 1.6; any of the others above 1.15"),
    _claim("ccnet_memory", "cost", "cost.ccnet",
           "Recurrent criss-cross attention (R = 2) needs about 11 times less memory than non-local attention, and "
           "about 85 % fewer operations, at CCNet's feature size.",
           source="Huang et al., arXiv:1811.11721, abstract and the table of section 4 (108 GFLOPs and 1411 MB against "
                  "16.5 GFLOPs and 127 MB)",
           miniature="one map of 97 x 97 places with 512 channels; the same projections (queries and keys of 64 "
                     "channels, values of 512) before both; the non-local layer with its map of weights held, as the "
                     "paper's, and beside it the library's own on the fused kernel",
           statistic="the ratio of the peaks of memory, counted allocation by allocation, in inference and in a "
                     "training step (forward and backward); the share of multiply-adds saved",
           refuted_by="ratios below 8 or above 14 both in inference and in the training step, as the abstract does not "
                      "say which it means; or savings outside of 80 to 90 %"),
    _claim("deformable_cost", "cost", "cost.tokens",
           "DETR's encoder grows with (HW)², that of Deformable DETR with HW.",
           source="Zhu et al., arXiv:2010.04159, sections 3 and 4.1",
           miniature="one encoder layer of 256 channels, 8 heads and an Mlp of 1,024, with self-attention and with "
                     "deformable attention (4 points, one level), on square maps of 2,304 to 16,384 places, inference",
           statistic="the exponents of multiply-adds and of median times (95 % bootstrap interval) of the mixers "
                     "alone; those of whole layers, where the Mlp's linear share is added, are reported",
           refuted_by="self-attention below 1.8, or deformable attention above 1.15, in either"),
    _claim("lambda_cost", "cost", "cost.tokens",
           "Lambda layers hold no attention map.",
           source="Bello, arXiv:2102.08602, section 3.2 and table 2",
           miniature="global and local lambda layers against self-attention with its map of weights held: 128 "
                     "channels, 4 heads, square maps of 256 to 4,096 places; and batches of 1 to 8 at 1,024 places; "
                     "inference",
           statistic="the peak of memory, counted allocation by allocation: its share of one map of weights "
                     "(batch x heads x N² numbers), and its growth with N",
           refuted_by="a lambda layer whose peak reaches a map of weights at 4,096 places, or grows with N^1.8 or "
                      "faster"),
    _claim("cheap_nets", "cost", "cost.nets",
           "ViT-B costs about 18 GFLOPs where GhostNet costs about 0.6.",
           source="as surveys of efficient vision transformers tell it; Dosovitskiy et al., arXiv:2010.11929; Han et "
                  "al., arXiv:1911.11907, table 7",
           miniature="ViT-B/16 and GhostNet at 0.5, 1.0 and 1.3 times its width, one image of 224 x 224",
           statistic="1e9 multiply-adds of convolutions, products and attention, counted while they run",
           refuted_by="ViT-B outside of 17 to 19, or no published GhostNet between 0.5 and 0.7"),
    _claim("bert_size", "cost", "cost.nets",
           "BERT-base has about 109 to 110 million parameters.",
           source="Devlin et al., arXiv:1810.04805, section 3 (110M)",
           miniature="the model, built without memory; counted whole, and without the two heads of pre-training",
           statistic="the number of parameters, each tensor once",
           refuted_by="a count outside of 109 to 110.5 million, whole or without the heads"),
]) | {claim.id: claim for claim in LEARNING}


def find(name: str) -> Claim:
    """A claim by its id. Raises SettingsError, naming the nearest."""
    if name not in CLAIMS:
        raise SettingsError(f"there is no claim {name!r}.{did_you_mean(name, CLAIMS)} `vitrail claims list` shows them")
    return CLAIMS[name]
