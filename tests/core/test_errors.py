"""Errors survive the trip out of a worker process, and unknown words get the nearest right one."""
import copy
import multiprocessing

import pytest
import torch

from vitrail.core import errors
from vitrail.core.errors import MissingExtra, VitrailError, did_you_mean

EVERY = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, VitrailError)]


@pytest.mark.parametrize("kind", EVERY)
def test_copies_keep_kind_and_words(kind):
    error = kind("cats/1.png: it is cut short")
    again = copy.copy(error)        # by the protocol that carries errors between processes
    assert type(again) is kind
    assert str(again) == str(error)
    assert kind.exit_code in (1, 2)


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise errors.DataError("cats/1.png: it is cut short")


def test_a_loader_s_worker_hands_it_on():
    loader = torch.utils.data.DataLoader(Broken(), num_workers=1,
                                         multiprocessing_context=multiprocessing.get_context("fork"))
    with pytest.raises(errors.DataError, match=r"cats/1\.png: it is cut short"):
        list(loader)


def test_a_missing_extra_says_how_to_install_it():
    error = MissingExtra.of("onnx", "onnx")
    assert isinstance(error, MissingExtra)
    assert "pip install 'vitrail[onnx]'" in str(error)


@pytest.mark.parametrize(("word", "hint"), [
    ("swin_tt", " Did you mean 'swin_t' or 'swin_s'?"), ("vit_s16", " Did you mean 'vit_s16'?"), ("zzz", ""), ("", "")])
def test_nearest(word, hint):
    assert did_you_mean(word, ("swin_t", "swin_s", "vit_s16")) == hint


def test_nearest_of_nothing():
    assert did_you_mean("a", ()) == ""
