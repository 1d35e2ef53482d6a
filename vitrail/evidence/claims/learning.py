"""The claims of the field about learning, in full. Imports no torch."""
from vitrail.evidence.claims.claim import Claim

_SETS = "the bundled digits and crops of ten photographs, both at 24 x 24 pixels"
_SEEDS = "five seeds, each with its own images, order and first weights"
_LITTLE = f"100, 400 and 1,438 images of {_SETS}; 1,000 steps of 32 images at any count; {_SEEDS}"
_FEW = f"200 images of {_SETS}"
_ALL = f"1,438 images of {_SETS}"
_MEAN = "seed by seed, the mean over both sets of pictures, with Student's 95 % interval"
_LEAD = (f"the difference of held-out top-1, {_MEAN}, at each count; and how far it shrinks from the smallest count to "
         "the largest")

LEARNING = (
    Claim(id="needs_data", kind="learning", module="learning.data",
          says="A ViT trained from scratch loses to a convolutional net on little data, and the gap closes as data "
               "grows.",
          source="Dosovitskiy et al., arXiv:2010.11929, section 4.3",
          miniature=f"a DeiT of 4 blocks of 64 channels on patches of 4 pixels, and a ResNet of three bottlenecks of "
                    f"96, 192 and 384 channels; {_LITTLE}",
          statistic=_LEAD,
          refuted_by="a lead of the convolutional net whose interval reaches 0 at the smallest count, or a lead that "
                     "does not shrink by more than 0"),
    Claim(id="convit_sample_efficiency", kind="learning", module="learning.data",
          says="ConViT beats an equal DeiT most where data is least.",
          source="d'Ascoli et al., arXiv:2103.10697, section 4 and its figure on sample efficiency",
          miniature=f"ConViT with three local blocks of four, and a DeiT of the same widths and depth; {_LITTLE}",
          statistic=_LEAD,
          refuted_by="a lead of ConViT whose interval reaches 0 at the smallest count, or a lead that does not shrink "
                     "by more than 0"),
    Claim(id="distillation", kind="learning", module="learning.distillation",
          says="Distillation from a convolutional teacher beats none, hard distillation beats soft, and the class "
               "token and the distillation token end up different.",
          source="Touvron et al., arXiv:2012.12877, sections 4 and 5.3",
          miniature="a DeiT of 4 blocks of 64 channels with one token (no teacher; soft distillation at a temperature "
                    "of 3, with a tenth and with half of the loss; hard distillation) and with two (hard distillation "
                    f"on a token of its own; two tokens with the same labels and no teacher); the teacher a ResNet of "
                    f"three bottlenecks, taught with the same images; {_FEW}; 1,000 steps of 32 images; {_SEEDS}",
          statistic=f"differences of held-out top-1 and, behind the last block, of the two tokens' cosine, {_MEAN}",
          refuted_by="an interval that reaches 0: of the lead of the student with a distillation token over the one "
                     "without a teacher, of hard over either soft, or of the cosine without a teacher over the one "
                     "with"),
    Claim(id="early_convolutions", kind="learning", module="learning.ease",
          says="A convolutional stem makes a ViT less sensitive to the learning rate and to the optimizer.",
          source="Xiao et al., arXiv:2106.14881, section 5",
          miniature="ViT_P of 4 blocks of 48 channels on patches of 4 pixels, and ViT_C with two convolutions in the "
                    f"place of one block; {_ALL}; 400 steps of 32 images with AdamW at 3e-4, 1e-3, 3e-3 and 1e-2, and "
                    f"with SGD at 0.01, 0.03, 0.1 and 0.3; {_SEEDS}",
          statistic="of held-out top-1, how far AdamW's mean over the rates lies below its best rate, and how far SGD "
                    f"at its best lies below AdamW; ViT_P's less ViT_C's, {_MEAN}",
          refuted_by="an interval of either difference that reaches 0"),
    Claim(id="pre_ln", kind="learning", module="learning.ease",
          says="A post-norm transformer needs a warm-up and has larger gradients near its output; a pre-norm one "
               "trains without.",
          source="Xiong et al., arXiv:2002.04745, sections 3.2 and 4",
          miniature="a ViT of 8 blocks of 48 channels, its norms before each branch or behind each residual, with "
                    f"Xavier's first weights; {_ALL}; 600 steps of 32 images with AdamW at 2e-3, with a tenth of them "
                    f"as warm-up or none; {_SEEDS}",
          statistic="what held-out top-1 loses where the warm-up is left out; and at the start, the length of the "
                    f"gradient of the last block's last matrix, {_MEAN}",
          refuted_by="an interval that reaches 0: of post-norm's loss, of how much less pre-norm loses, or of the "
                     "logarithm of post-norm's gradient over pre-norm's"),
    Claim(id="deit_depth_reattention", kind="learning", module="learning.depth",
          says="The attention maps of a deep ViT grow alike with depth; re-attention keeps them apart.",
          source="Zhou et al., arXiv:2103.11886, sections 3.2 and 4.2",
          miniature="16 blocks of 48 channels and 6 heads with self-attention or with re-attention; "
                    f"{_ALL}; 1,000 steps of 32 images; {_SEEDS}",
          statistic="the cosine of what a token looks at in a block and in the one before (equation 2), over heads and "
                    "tokens of 64 held-out images, as printed and of rows without their mean, which re-attention's "
                    f"norm moves; {_MEAN}",
          refuted_by="with either cosine, an interval that reaches 0: of its growth from the first quarter of the "
                     "blocks to the last under self-attention, or of what it is higher there than under re-attention"),
    Claim(id="san_parameters", kind="learning", module="learning.vector",
          says="Vector self-attention matches a ResNet with fewer parameters.",
          source="Zhao et al., arXiv:2004.13621, table 2",
          miniature="SAN of three stages of one block of 32, 128 and 256 channels, pairwise and patchwise, and a "
                    f"ResNet of as many bottlenecks of 64, 128 and 256 channels; {_ALL}; 600 steps of 64 images; "
                    f"{_SEEDS}",
          statistic=f"the difference of held-out top-1, {_MEAN}, and the numbers of parameters",
          refuted_by="for either kind, an interval that reaches a point below the ResNet, or more than 0.86 of its "
                     "parameters, the published share of SAN10 patchwise"),
    Claim(id="aaconv", kind="learning", module="learning.mixing",
          says="Attention and convolution together beat either alone.",
          source="Bello et al., arXiv:1904.09925, sections 4.2 and 4.4",
          miniature="three stages of one bottleneck of 96, 192 and 384 channels, whose middle is a 3 x 3 convolution, "
                    f"attention with relative positions, or half of the channels of each; {_FEW}; 600 steps of 64 "
                    f"images; {_SEEDS}",
          statistic=f"the difference of held-out top-1, {_MEAN}",
          refuted_by="a lead of both together, over either alone, whose interval reaches 0"),
    Claim(id="conv_then_attention", kind="learning", module="learning.mixing",
          says="Convolution in early layers and attention in late ones is the best order.",
          source="Dai et al., arXiv:2106.04803, section 2.2.2",
          miniature="CoAtNets of four stages of one block, two of convolution (C) and two of attention (T): CCTT, "
                    f"CTCT, TCTC and TTCC; {_FEW}; 600 steps of 64 images; {_SEEDS}",
          statistic=f"the difference of held-out top-1, {_MEAN}",
          refuted_by="a lead of CCTT, over any other order, whose interval reaches 0"),
    Claim(id="adversarial", kind="learning", module="learning.vector",
          says="Vector attention resists adversarial perturbation better than convolution.",
          source="Zhao et al., arXiv:2004.13621, section 5.3",
          miniature="the networks, pictures and budget of san_parameters; ten projected gradient steps within 0.03, "
                    "0.06 and 0.12 deviations of the pixels, against each network's own gradient",
          statistic=f"the difference of attacked held-out top-1, the mean over the three radii, {_MEAN}",
          refuted_by="for either kind, pairwise or patchwise, a lead over the ResNet whose interval reaches 0"),
)
