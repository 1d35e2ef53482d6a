"""The claims of the field about learning, in full. Imports no torch."""
from vitrail.evidence.claim import Claim

_LITTLE = ("100, 400 and 1,438 of the bundled digits, and as many crops of ten photographs, both at 24 x 24 pixels; "
           "1,000 steps of 64 images at any count; five seeds, each with its own images, order and first weights")
_LEAD = ("the difference of held-out top-1, seed by seed, the mean over both sets of pictures, with Student's 95 % "
         "interval, at each count; and how far it shrinks from the smallest count to the largest")

LEARNING = (
    Claim(id="needs_data", kind="learning", module="learn_data",
          says="A ViT trained from scratch loses to a convolutional net on little data, and the gap closes as data "
               "grows.",
          source="Dosovitskiy et al., arXiv:2010.11929, section 4.3",
          miniature=f"a DeiT of 4 blocks of 48 channels on patches of 4 pixels, and a ResNet of one block a stage, 12 "
                    f"to 96 channels; {_LITTLE}",
          statistic=_LEAD,
          refuted_by="a lead of the convolutional net whose interval reaches 0 at the smallest count, or a lead that "
                     "does not shrink by more than 0"),
    Claim(id="convit_sample_efficiency", kind="learning", module="learn_data",
          says="ConViT beats an equal DeiT most where data is least.",
          source="d'Ascoli et al., arXiv:2103.10697, section 4 and its figure on sample efficiency",
          miniature=f"ConViT with three local blocks of four, and a DeiT of the same widths and depth; {_LITTLE}",
          statistic=_LEAD,
          refuted_by="a lead of ConViT whose interval reaches 0 at the smallest count, or a lead that does not shrink "
                     "by more than 0"),
)
