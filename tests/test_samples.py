"""Batches: the same whatever the number of workers, in an order of the epoch's own."""

from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from tiny import scene, tiny_config, write_frame
from torchvision.transforms.v2.functional import normalize, to_dtype

from cityseg.cache import Pixels
from cityseg.census import census_of
from cityseg.config import Config
from cityseg.data import Frame, read_frame, read_image, read_target
from cityseg.errors import InputError
from cityseg.inputs import MEAN, STD, normalise
from cityseg.samples import ClassUniform, EpochBatches, train_loader, val_loader


def epoch_of(frames: list[Frame], config: Config, workers: int, epoch: int) -> list[torch.Tensor]:
    loader, batches = train_loader(frames, config, workers, pin=False)
    batches.epoch = epoch
    return [tensor for batch in loader for tensor in (batch.image, batch.target)]


def test_batches_are_the_same_whatever_the_number_of_workers(frames: list[Frame], config: Config):
    alone, shared = (epoch_of(frames, config, workers, epoch=2) for workers in (0, 2))
    assert len(alone) == len(shared) == 12
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


UNIFORM = {"view": "crop", "colour": "distortion", "crop": {"class_uniform": 0.5}}


def test_class_uniform_crops_are_the_same_whatever_the_number_of_workers(frames: list[Frame]):
    config = tiny_config(data={"input_size": [32, 32], "augment": UNIFORM})
    census = census_of(frames, config, read_frame)

    def epoch(workers: int) -> list[torch.Tensor]:
        loader, batches = train_loader(frames, config, workers, False, census=census)
        batches.epoch = 3
        return [tensor for batch in loader for tensor in (batch.image, batch.target)]

    alone, shared = epoch(0), epoch(2)
    assert len(alone) == 12
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_class_uniform_samples_show_each_class_as_often_on_a_frame_that_holds_it():
    """Class 5 is on every frame, class 7 on two of ten, class 9 on one; the rest on none."""
    census = np.zeros((10, 19), np.int64)
    census[:, 5], census[[2, 3], 7], census[6, 9] = 1000, 1, 5
    choose = ClassUniform(census, 0.6, seed=3)
    choices = [choose(epoch, i) for epoch in range(300) for i in range(10)]
    assert choices == [choose(epoch, i) for epoch in range(300) for i in range(10)]
    labels = [choice.label for choice in choices]
    assert labels.count(None) / 3000 == pytest.approx(0.4, abs=0.03)
    for label in (5, 7, 9):
        assert labels.count(label) / 3000 == pytest.approx(0.2, abs=0.03)
    assert all(census[choice.frame, choice.label] for choice in choices if choice.label is not None)
    assert {choice.frame for choice in choices if choice.label == 7} == {2, 3}
    frames = [choice.frame for i, choice in enumerate(choices) if choice.label is None]
    assert frames == [i % 10 for i, label in enumerate(labels) if label is None]


def test_classes_of_no_frame_are_never_drawn():
    choose = ClassUniform(np.zeros((4, 19), np.int64), 1.0, seed=0)
    assert [choose(1, i).frame for i in range(4)] == [0, 1, 2, 3]


def test_a_batch_of_accumulated_passes_is_that_of_one_step(frames: list[Frame]):
    config = tiny_config(train={"batch_size": 2, "accumulate": 3})
    loader, batches = train_loader(frames, config, 0, pin=False)
    assert [len(batch.image) for batch in loader] == [6, 6]
    batches.epoch = 3
    assert batches.first_step == 4


def test_the_epoch_reaches_workers_that_stay_alive(frames: list[Frame], config: Config):
    loader, batches = train_loader(frames, config, workers=1, pin=False)
    for epoch in (1, 2):
        batches.epoch = epoch
        got = [batch.image for batch in loader]
        wanted = epoch_of(frames, config, 0, epoch)[::2]
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_each_epoch_and_seed_has_its_own_order_of_all_frames():
    orders = {
        (seed, epoch): tuple(EpochBatches(12, 2, seed).order(epoch))
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    }
    assert len(set(orders.values())) == 6
    assert all(sorted(order) == list(range(12)) for order in orders.values())


def test_a_short_last_batch_is_dropped():
    batches = EpochBatches(7, 2, seed=0)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 3
    assert {len(batch) for batch in drawn} == {2}
    assert len({i for batch in drawn for _, i in batch}) == 6


def test_a_step_can_be_traced_to_its_samples():
    batches = EpochBatches(7, 3, seed=5)
    batches.epoch = 4
    assert [[i for _, i in batch] for batch in batches] == [batches.indices(4, s) for s in (0, 1)]


def test_normalising_equals_torchvision_and_albumentations():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    ours = normalise(tensor)
    torch.testing.assert_close(
        ours, normalize(to_dtype(tensor, torch.float32, scale=True), list(MEAN), list(STD))
    )
    theirs = A.Normalize()(image=image)["image"]
    np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_keeps_the_order_and_each_frames_own_labels(
    tmp_path: Path, config: Config, workers: int
):
    sizes = [(64, 128), (40, 90), (33, 47)]
    frames = [
        write_frame(tmp_path, "train", f"ulm_{i:06}_000019", *scene(i, size))
        for i, size in enumerate(sizes)
    ]
    batches = list(val_loader(frames, config, workers, pin=False))
    assert [name for batch in batches for name in batch.names] == [f.name for f in frames]
    assert [len(batch.names) for batch in batches] == [2, 1]
    full = [target for batch in batches for target in batch.full_targets]
    for frame, target in zip(frames, full, strict=True):
        np.testing.assert_array_equal(target.numpy(), read_target(frame.label))
    assert {tuple(batch.image.shape[1:]) for batch in batches} == {(3, 32, 64)}


def test_a_validation_sample_is_channels_first_rgb(tmp_path: Path):
    frame = write_frame(tmp_path, "train", "ulm_000000_000019", *scene(0, (32, 64)))
    (batch,) = val_loader([frame], tiny_config(), 0, pin=False)
    np.testing.assert_array_equal(batch.image[0].permute(1, 2, 0), read_image(frame.image))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_in_one_line_from_within_a_worker_too(
    tmp_path: Path, config: Config, workers: int
):
    frames = [write_frame(tmp_path, "train", f"ulm_{i:06}_000019", *scene(i)) for i in range(2)]
    frames[1].image.write_bytes(frames[1].image.read_bytes()[:100])
    for loader in (
        train_loader(frames, config, workers, pin=False)[0],
        val_loader(frames, config, workers, pin=False),
    ):
        with pytest.raises(InputError) as caught:
            list(loader)
        assert str(caught.value).startswith(f"cannot decode {frames[1].image}")
        assert "Traceback" not in str(caught.value)


def buggy(_: Frame) -> Pixels:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_programmers_error_in_a_worker_is_no_lost_worker(
    frames: list[Frame], config: Config, workers: int
):
    for loader in (
        train_loader(frames, config, workers, False, buggy)[0],
        val_loader(frames, config, workers, False, buggy),
    ):
        with pytest.raises(RuntimeError, match="a bug") as caught:
            list(loader)
        assert type(caught.value) is RuntimeError
