"""Order and augmentation are functions of seed, epoch and index: whatever the workers, processes and restarts."""
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.core.errors import DataError, SettingsError, TrainingError
from vitrail.core.config import Preprocessing
from vitrail.data.loader import Loader, lost_worker
from vitrail.data.open import open_dataset
from vitrail.data.settings import Augmentation
from vitrail.data.dataset import Subset
from vitrail.data.images import ImageDataset
from vitrail.data.transforms import evaluation_transform, training_transform
from vitrail.tasks.classification.data import Batch, CollateImages, Transform

SIZE = Preprocessing(size=(16, 12))


def loader(dataset: Any, transform: Transform, *, seed: int = 0, **options: Any) -> Loader[Batch]:
    """Batches of images by a transform."""
    return Loader(dataset, CollateImages(transform, seed=seed), seed=seed, **options)


@pytest.fixture(scope="module")
def source() -> ImageDataset:
    return Subset(open_dataset("digits"), range(100, 143))


def everything(source: ImageDataset, *, workers: int = 0, of: int = 1, epochs: tuple[int, ...] = (0, 1), seed: int = 3,
               start_method: str | None = None, stops: tuple[int, ...] = ()) -> dict[tuple[int, int], Batch]:
    """(epoch, step) -> the whole batch, put together from the slices of all processes, with restarts at `stops`."""
    found: dict[tuple[int, int], list[Batch]] = {}
    for rank in range(of):
        batches = loader(source, training_transform(SIZE, Augmentation(jitter=0.3)), batch=8, seed=seed, shuffle=True,
                          workers=workers, rank=rank, of=of, drop_last=True, start_method=start_method)
        for epoch in epochs:
            begins = [0, *stops]
            for begin, end in zip(begins, [*stops, len(batches)], strict=True):
                for step, batch in enumerate(batches.epoch(epoch, begin), begin):
                    if step == end:
                        break                               # what was loaded ahead must not be seen again
                    found.setdefault((epoch, step), []).append(batch)
        batches.close()
    return {at: Batch(images=torch.cat([b.images for b in s]), labels=torch.cat([b.labels for b in s]),
                      indices=torch.cat([b.indices for b in s])) for at, s in found.items()}


def same(a: dict[tuple[int, int], Batch], b: dict[tuple[int, int], Batch]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k].images, b[k].images) and torch.equal(a[k].indices, b[k].indices)
        and torch.equal(a[k].labels, b[k].labels) for k in a)


@pytest.fixture(scope="module")
def reference(source: ImageDataset) -> dict[tuple[int, int], Batch]:
    return everything(source)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("of", [1, 2])
@pytest.mark.parametrize("stops", [(), (2,), (1, 4)])
def test_the_same_tensors_whatever_the_layout(source: ImageDataset, reference: dict[tuple[int, int], Batch],
                                              workers: int, of: int, stops: tuple[int, ...]) -> None:
    assert same(everything(source, workers=workers, of=of, stops=stops), reference)


def test_the_same_tensors_from_spawned_workers(source: ImageDataset, reference: dict[tuple[int, int], Batch]) -> None:
    found = everything(source, workers=1, epochs=(1,), start_method="spawn")
    assert same(found, {at: b for at, b in reference.items() if at[0] == 1})


def test_epochs_and_seeds_differ(source: ImageDataset, reference: dict[tuple[int, int], Batch]) -> None:
    def order(found: dict[tuple[int, int], Batch], epoch: int) -> list[int]:
        return [i for (e, _), b in found.items() if e == epoch for i in b.indices.tolist()]

    assert order(reference, 0) != order(reference, 1)
    assert order(everything(source, seed=4, epochs=(0,)), 0) != order(reference, 0)
    first = order(reference, 0)
    assert len(set(first)) == len(first) == 40              # five whole batches of eight, of 43 samples
    image = {e: b.images[b.indices.tolist().index(i)] for e in (0, 1) for (at, _), b in reference.items() if at == e
             for i in b.indices.tolist() if i == first[0]}
    assert not torch.equal(image[0], image[1])              # the same sample is changed in another way


def test_labels_follow_their_images(source: ImageDataset) -> None:
    for batch in loader(source, evaluation_transform(SIZE), batch=10, seed=0, shuffle=True).epoch(5):
        assert batch.labels.tolist() == [source.targets(i)["class"] for i in batch.indices.tolist()]
        expected = torch.stack([evaluation_transform(SIZE)(source.image(i)) for i in batch.indices.tolist()])
        assert torch.equal(batch.images, expected)


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_evaluation_sees_every_sample_once(source: ImageDataset, of: int) -> None:
    seen = [i for rank in range(of) for b in loader(source, evaluation_transform(SIZE), batch=20, rank=rank, of=of)
            .epoch(0) for i in b.indices.tolist()]
    assert sorted(seen) == list(range(43))


def test_the_callers_random_streams_are_left_alone(source: ImageDataset) -> None:
    def states() -> tuple[Tensor, object, list[int]]:
        return torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    for workers in (0, 1):
        batches = loader(source, training_transform(SIZE, Augmentation()), batch=20, shuffle=True, workers=workers)
        list(batches.epoch(0))
        batches.close()
    after = states()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_transforms_may_draw_from_any_generator(source: ImageDataset) -> None:
    def run(workers: int) -> list[float]:
        batches = loader(source, any_generator, batch=20, seed=1, workers=workers)
        return [x for b in batches.epoch(2) for x in b.images.flatten().tolist()]

    assert run(0) == run(2)
    assert len(set(run(0))) == 3 * 43


def any_generator(image: Tensor) -> Tensor:
    return torch.tensor([torch.rand(()).item(), random.random(), float(np.random.rand())])


def any_size(image: Tensor) -> Tensor:
    return torch.zeros(random.choice([1, 3]), 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_sizes_are_no_batch(source: ImageDataset, workers: int) -> None:
    batches = loader(source, any_size, batch=20, seed=1, workers=workers)
    with pytest.raises(SettingsError, match=r"one size and type.*\(\d, 2\) torch.float32 of 01\d\d and \(\d, 2\)"):
        list(batches.epoch(0))
    batches.close()


def test_a_worker_makes_its_batch_in_shared_memory(source: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made elsewhere, all of it would be copied there on its way to the main process."""
    collate = CollateImages(evaluation_transform(SIZE))
    indices = [7, 3, 1, 4]
    made = []
    for worker in (None, object()):
        monkeypatch.setattr("vitrail.data.batch.get_worker_info", lambda worker=worker: worker)
        batch = collate(source, indices, 0, slice(1, 4))
        assert batch.images.is_shared() == (worker is not None)
        made.append(batch.images)
    assert torch.equal(*made)
    assert torch.equal(made[0], torch.stack([evaluation_transform(SIZE)(source.image(i)) for i in indices[1:]]))


def test_numbers_that_do_not_fit(source: ImageDataset) -> None:
    def make(**changes: int | bool) -> Loader[Batch]:
        return loader(source, evaluation_transform(SIZE), **{"batch": 8} | changes)  # type: ignore[arg-type]

    with pytest.raises(SettingsError, match="43 samples do not fill one batch of 64; make batch 43 or smaller"):
        make(batch=64, drop_last=True)
    assert len(make(batch=64)) == 1
    with pytest.raises(SettingsError, match="shared evenly by 3"):
        make(rank=0, of=3, drop_last=True)
    for bad in ({"batch": 0}, {"batch": 1.5}, {"workers": -1}, {"rank": 2, "of": 2}):
        with pytest.raises(SettingsError):
            make(**bad)
    with pytest.raises(SettingsError, match="no sample"):
        loader(Subset(source, []), evaluation_transform(SIZE), batch=1)
    cases = {(8, True): 5, (8, False): 6, (43, True): 1, (43, False): 1}
    assert {(b, d): len(make(batch=b, drop_last=d)) for b, d in cases} == cases


class Breaking(Subset):
    """A source whose eleventh image is bad."""

    def image(self, index: int) -> Tensor:
        if index == 10:
            raise DataError(f"{self.key(index)}: this is bad")
        return self.dataset.image(self.indices[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_keeps_its_error(source: ImageDataset, workers: int) -> None:
    batches = loader(Breaking(source, range(43)), evaluation_transform(SIZE), batch=4, workers=workers)
    steps = batches.epoch(0)
    assert len(list(zip(range(2), steps, strict=False))) == 2
    with pytest.raises(DataError, match=r"^0110: this is bad$"):
        list(steps)
    batches.close()


def suicidal(image: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return image


def steps_of(batches: Loader[Batch]) -> Iterator[Batch]:
    return batches.epoch(0)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_a_killed_worker_is_a_clear_error(source: ImageDataset) -> None:
    batches = loader(source, suicidal, batch=4, workers=2)
    with pytest.raises(TrainingError, match="process that loads samples was lost.*fewer workers than 2"):
        list(batches.epoch(0))
    assert lost_worker(RuntimeError("something else"), 2) is None


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="Linux signals")
def test_workers_outlive_a_signal_to_the_whole_group(source: ImageDataset) -> None:
    """The main process alone decides when to stop; told by it, they do stop."""
    batches = loader(source, evaluation_transform(SIZE), batch=4, workers=2)
    steps = batches.epoch(0)
    next(steps)
    iterator = batches.loader._iterator
    assert iterator is not None
    workers = list(iterator._workers)
    sender = os.fork()
    if not sender:                                          # from another process, as torchrun or a terminal does
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
        os._exit(0)
    os.waitpid(sender, 0)
    assert len(list(steps)) == 10
    assert all(w.is_alive() for w in workers)
    workers[0].terminate()
    workers[0].join(20)
    assert not workers[0].is_alive()
    batches.close()
    deadline = time.monotonic() + 20
    while any(w.is_alive() for w in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(w.is_alive() for w in workers)


def test_a_batch_moves_whole(source: ImageDataset) -> None:
    batch = next(steps_of(loader(source, evaluation_transform(SIZE), batch=4))).to("meta")
    assert {t.device.type for t in (batch.images, batch.labels, batch.indices)} == {"meta"}
    assert (len(batch), batch.images.shape) == (4, (4, 3, 16, 12))
