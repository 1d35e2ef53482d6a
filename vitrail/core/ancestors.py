"""Papers that have no file here, and that papers which have one build on: the keys that an `Idea` may name.

Only those that are central to a paper of ours. When one of them becomes a module, its line goes, and the ideas that
name it name the module instead; a contract test says which.
"""
from collections.abc import Mapping

from vitrail.core.card import Paper


def _paper(authors: str, year: int, title: str, venue: str, arxiv: str = "") -> Paper:
    return Paper(title=title, arxiv=arxiv, authors=authors, year=year, venue=venue)


ANCESTORS: Mapping[str, Paper] = {
    # text
    "cloze": _paper("Taylor", 1953, "“Cloze Procedure”: A New Tool for Measuring Readability", "Journalism Quarterly"),
    "bidirectional_rnn": _paper("Schuster & Paliwal", 1997, "Bidirectional Recurrent Neural Networks",
                                "IEEE Transactions on Signal Processing"),
    "handwriting": _paper("Graves", 2013, "Generating Sequences With Recurrent Neural Networks", "", "1308.0850"),
    "rnn_encoder_decoder": _paper("Cho et al.", 2014, "Learning Phrase Representations using RNN Encoder-Decoder for "
                                  "Statistical Machine Translation", "EMNLP", "1406.1078"),
    "lstm_seq2seq": _paper("Sutskever et al.", 2014, "Sequence to Sequence Learning with Neural Networks", "NeurIPS",
                           "1409.3215"),
    "byte_pairs": _paper("Sennrich et al.", 2016, "Neural Machine Translation of Rare Words with Subword Units", "ACL",
                         "1508.07909"),
    "decomposable_attention": _paper("Parikh et al.", 2016, "A Decomposable Attention Model for Natural Language "
                                     "Inference", "EMNLP", "1606.01933"),
    "self_attentive": _paper("Lin et al.", 2017, "A Structured Self-attentive Sentence Embedding", "ICLR",
                             "1703.03130"),
    "conv_s2s": _paper("Gehring et al.", 2017, "Convolutional Sequence to Sequence Learning", "ICML", "1705.03122"),
    "elmo": _paper("Peters et al.", 2018, "Deep Contextualized Word Representations", "NAACL", "1802.05365"),
    "gpt_1": _paper("Radford et al.", 2018, "Improving Language Understanding by Generative Pre-Training", "OpenAI"),
    "relative_positions": _paper("Shaw et al.", 2018, "Self-Attention with Relative Position Representations", "NAACL",
                                 "1803.02155"),
    "music_transformer": _paper("Huang et al.", 2019, "Music Transformer: Generating Music with Long-Term Structure",
                                "ICLR", "1809.04281"),
    "light_conv": _paper("Wu et al.", 2019, "Pay Less Attention with Lightweight and Dynamic Convolutions", "ICLR",
                         "1901.10430"),
    "sparse_transformer": _paper("Child et al.", 2019, "Generating Long Sequences with Sparse Transformers", "",
                                 "1904.10509"),
    "deep_transformer": _paper("Wang et al.", 2019, "Learning Deep Transformer Models for Machine Translation", "ACL",
                               "1906.01787"),
    "transformer_dissection": _paper("Tsai et al.", 2019, "Transformer Dissection: A Unified Understanding of "
                                     "Transformer's Attention via the Lens of Kernel", "EMNLP", "1908.11775"),
    "t5": _paper("Raffel et al.", 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text "
                 "Transformer", "JMLR", "1910.10683"),
    "explicit_sparse": _paper("Zhao et al.", 2019, "Explicit Sparse Transformer: Concentrated Attention Through "
                              "Explicit Selection", "", "1912.11637"),
    "longformer": _paper("Beltagy et al.", 2020, "Longformer: The Long-Document Transformer", "", "2004.05150"),
    "etc": _paper("Ainslie et al.", 2020, "ETC: Encoding Long and Structured Inputs in Transformers", "EMNLP",
                  "2004.08483"),
    "rope": _paper("Su et al.", 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", "",
                   "2104.09864"),
    # training and parts of networks
    "nmf": _paper("Lee & Seung", 1999, "Learning the Parts of Objects by Non-negative Matrix Factorization", "Nature"),
    "random_features": _paper("Rahimi & Recht", 2007, "Random Features for Large-Scale Kernel Machines", "NeurIPS"),
    "spectral_networks": _paper("Bruna et al.", 2014, "Spectral Networks and Locally Connected Networks on Graphs",
                                "ICLR", "1312.6203"),
    "gan": _paper("Goodfellow et al.", 2014, "Generative Adversarial Nets", "NeurIPS", "1406.2661"),
    "batch_norm": _paper("Ioffe & Szegedy", 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing "
                         "Internal Covariate Shift", "ICML", "1502.03167"),
    "distillation": _paper("Hinton et al.", 2015, "Distilling the Knowledge in a Neural Network", "", "1503.02531"),
    "angular_lsh": _paper("Andoni et al.", 2015, "Practical and Optimal LSH for Angular Distance", "NeurIPS",
                          "1509.02897"),
    "gelu": _paper("Hendrycks & Gimpel", 2016, "Gaussian Error Linear Units (GELUs)", "", "1606.08415"),
    "layer_norm": _paper("Ba et al.", 2016, "Layer Normalization", "", "1607.06450"),
    "orthogonal_features": _paper("Yu et al.", 2016, "Orthogonal Random Features", "NeurIPS", "1610.09072"),
    "revnet": _paper("Gomez et al.", 2017, "The Reversible Residual Network: Backpropagation Without Storing "
                      "Activations", "NeurIPS", "1707.04585"),
    "spectral_norm": _paper("Miyato et al.", 2018, "Spectral Normalization for Generative Adversarial Networks", "ICLR",
                            "1802.05957"),
    "set_transformer": _paper("Lee et al.", 2019, "Set Transformer: A Framework for Attention-based "
                              "Permutation-Invariant Neural Networks", "ICML", "1810.00825"),
    "fixup": _paper("Zhang et al.", 2019, "Fixup Initialization: Residual Learning Without Normalization", "ICLR",
                    "1901.09321"),
    "rezero": _paper("Bachlechner et al.", 2021, "ReZero is All You Need: Fast Convergence at Large Depth", "UAI",
                      "2003.04887"),
    # images
    "non_local_means": _paper("Buades et al.", 2005, "A Non-Local Algorithm for Image Denoising", "CVPR"),
    "vgg": _paper("Simonyan & Zisserman", 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
                  "ICLR", "1409.1556"),
    "highway": _paper("Srivastava et al.", 2015, "Highway Networks", "", "1505.00387"),
    "unet": _paper("Ronneberger et al.", 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
                    "MICCAI", "1505.04597"),
    "pre_activation": _paper("He et al.", 2016, "ModelConfig Mappings in Deep Residual Networks", "ECCV", "1603.05027"),
    "wide_resnet": _paper("Zagoruyko & Komodakis", 2016, "Wide Residual Networks", "BMVC", "1605.07146"),
    "densenet": _paper("Huang et al.", 2017, "Densely Connected Convolutional Networks", "CVPR", "1608.06993"),
    "resnext": _paper("Xie et al.", 2017, "Aggregated Residual Transformations for Deep Neural Networks", "CVPR",
                       "1611.05431"),
    "deformable_conv": _paper("Dai et al.", 2017, "Deformable Convolutional Networks", "ICCV", "1703.06211"),
    "mobilenet": _paper("Howard et al.", 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision "
                         "Applications", "", "1704.04861"),
    "shufflenet": _paper("Zhang et al.", 2018, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for "
                          "Mobile Devices", "CVPR", "1707.01083"),
    "squeeze_excite": _paper("Hu et al.", 2018, "Squeeze-and-Excitation Networks", "CVPR", "1709.01507"),
    "relation_networks": _paper("Hu et al.", 2018, "Relation Networks for Object Detection", "CVPR", "1711.11575"),
    "image_transformer": _paper("Parmar et al.", 2018, "Image Transformer", "ICML", "1802.05751"),
    "bag_of_tricks": _paper("He et al.", 2019, "Bag of Tricks for Image Classification with Convolutional Neural "
                            "Networks", "CVPR", "1812.01187"),
    "mobilenet_v3": _paper("Howard et al.", 2019, "Searching for MobileNetV3", "ICCV", "1905.02244"),
    "efficientnet": _paper("Tan & Le", 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural "
                            "Networks", "ICML", "1905.11946"),
    "conv_like_attention": _paper("Cordonnier et al.", 2020, "On the Relationship between Self-Attention and "
                                  "Convolutional Layers", "ICLR", "1911.03584"),
    "cnn_positions": _paper("Islam et al.", 2020, "How Much Position Information Do Convolutional Neural Networks "
                            "Encode?", "ICLR", "2001.08248"),
    "regnet": _paper("Radosavovic et al.", 2020, "Designing Network Design Spaces", "CVPR", "2003.13678"),
    "detr": _paper("Carion et al.", 2020, "End-to-End Object Detection with Transformers", "ECCV", "2005.12872"),
    "image_gpt": _paper("Chen et al.", 2020, "Generative Pretraining from Pixels", "ICML"),
    "dall_e": _paper("Ramesh et al.", 2021, "Zero-Shot Text-to-Image Generation", "ICML", "2102.12092"),
    "ceit": _paper("Yuan et al.", 2021, "Incorporating Convolution Designs into Visual Transformers", "ICCV",
                   "2103.11816"),
    "localvit": _paper("Li et al.", 2021, "LocalViT: Bringing Locality to Vision Transformers", "", "2104.05707"),
}
