"""Random changes of a sample: what they do, together, and what their draws depend on."""

import colorsys
import random
import subprocess
import sys
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cityseg.augment import TrainTransform
from cityseg.config import Augment, Data
from cityseg.inputs import resized

SOURCE = (64, 128)
SIZE = (64, 128)
STILL = {"scale": 0.0, "flip": 0.0, "jitter": 0.0}
DRAWS = range(400)


def transform(size: tuple[int, int] = SIZE, **changes: float) -> TrainTransform:
    """Only the named steps happen."""
    augment = Augment.model_validate({**STILL, **changes})
    return TrainTransform(Data(input_size=size, augment=augment))


def grey_and_its_labels() -> tuple[np.ndarray, np.ndarray]:
    """An image that says where its labels are: 19 vertical bands, channel = 10 x (label + 1)."""
    target = (np.arange(SOURCE[1]) * 19 // SOURCE[1]).astype(np.uint8)[None].repeat(SOURCE[0], 0)
    return ((target + 1) * 10)[..., None].repeat(3, -1), target


def test_without_any_step_the_frame_stays_as_it_is():
    image, target = grey_and_its_labels()
    changed = transform()(image, target, (0, 1, 0))
    np.testing.assert_array_equal(changed[0], image)
    np.testing.assert_array_equal(changed[1], target)


def test_image_and_labels_move_together():
    image, target = grey_and_its_labels()
    move = transform(scale=0.2, flip=0.5)
    for i in range(60):
        changed, labels = move(image, target, (0, 1, i))
        said = np.where(labels == 255, 0, (labels.astype(int) + 1) * 10)
        # bilinear interpolation blurs the borders of the bands, and only those
        agree = np.abs(changed[..., 0].astype(int) - said) <= 5
        assert agree.mean() > 0.75
        assert set(np.unique(labels)) <= {*range(19), 255}
        flipped = labels[32, labels[32] != 255]
        assert (np.diff(flipped.astype(int)) >= 0).all() or (
            np.diff(flipped.astype(int)) <= 0
        ).all()


def drawn_scale(labels: np.ndarray) -> float:
    """Scale by the size of the unpadded part; only scales below 1 leave one."""
    return (labels != 255).any(0).sum() / SOURCE[1]


def test_the_scale_is_drawn_evenly_from_minus_to_plus_20_percent_and_shrinking_pads():
    image, target = grey_and_its_labels()
    shrink = transform(scale=0.2)
    scales = []
    for i in DRAWS:
        changed, labels = shrink(image, target, (3, 1, i))
        padding = labels == 255
        assert (changed[padding] == 0).all() or drawn_scale(labels) > 0.98
        scales.append(drawn_scale(labels))
    small = [scale for scale in scales if scale < 0.995]
    assert min(scales) >= 0.79
    assert min(scales) < 0.82
    assert 0.4 < len(small) / len(scales) < 0.6  # a half grows, and shows no padding
    assert 0.87 < np.mean(small) < 0.93


def test_padding_is_to_the_source_size_and_then_resized():
    """Padded to the input size instead, a larger frame would never be padded at all, and the
    resize would undo the scale."""
    image, target = grey_and_its_labels()
    for i in range(30):
        large = transform(scale=0.2)(image, target, (3, 1, i))[1]
        small = transform((32, 64), scale=0.2)(image, target, (3, 1, i))[1]
        padded = [(labels == 255).mean() for labels in (large, small)]
        assert padded[0] == pytest.approx(padded[1], abs=0.05)


def test_a_grown_frame_is_only_resampled():
    """Padding to the source size leaves a larger frame whole; the resize undoes the growth."""
    image, target = grey_and_its_labels()
    grow = transform(scale=0.2)
    for i in range(30):
        _, labels = grow(image, target, (3, 1, i))
        if not (labels == 255).any():
            assert (labels == target).mean() > 0.8  # off by a pixel at most, at 18 borders


def test_a_flip_is_a_flip():
    image, target = grey_and_its_labels()
    changed, labels = transform(flip=1.0)(image, target, (0, 1, 0))
    np.testing.assert_array_equal(changed, image[:, ::-1])
    np.testing.assert_array_equal(labels, target[:, ::-1])


def test_jitter_changes_colours_alone():
    image, target = grey_and_its_labels()
    image[..., 2] //= 2
    changed, labels = transform(jitter=1.0)(image, target, (0, 1, 0))
    assert (changed != image).mean() > 0.3
    np.testing.assert_array_equal(labels, target)


def test_draws_are_a_function_of_seed_epoch_and_index_alone():
    image, target = grey_and_its_labels()
    first, second = (transform(scale=0.2, flip=0.5, jitter=0.5) for _ in range(2))
    draws = [(0, 1, i) for i in range(6)]
    forward = {draw: first(image, target, draw) for draw in draws}
    np.random.default_rng(0).shuffle(draws)
    for draw in draws:
        second(image[:32], target[:32], (9, 9, 9))  # another source size in between
        for one, other in zip(forward[draw], second(image, target, draw), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("other", [(1, 1, 0), (0, 2, 0), (0, 1, 1)], ids=["seed", "epoch", "index"])
def test_each_of_seed_epoch_and_index_changes_the_draws(other: tuple[int, int, int]):
    image, target = grey_and_its_labels()
    move = transform(jitter=1.0)
    assert (move(image, target, (0, 1, 0))[0] != move(image, target, other)[0]).any()


def test_the_random_state_of_the_program_plays_no_part():
    image, target = grey_and_its_labels()
    move = transform(scale=0.2, flip=0.5, jitter=0.5)
    np.random.seed(1)
    before = move(image, target, (0, 1, 5))
    np.random.seed(2)
    for one, other in zip(before, move(image, target, (0, 1, 5)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_are_drawn_independently_of_each_other():
    """albumentations' set_random_seed gives each step one stream: flip and jitter, both at 0.5,
    then always happen together, and only on frames of certain scales."""
    image, target = grey_and_its_labels()
    image[..., 2] //= 2
    move = transform(scale=0.2, flip=0.5, jitter=0.5, brightness=1.0)
    flips, jitters, grown = np.zeros((3, len(DRAWS)), bool)
    for i in DRAWS:
        changed, labels = move(image, target, (0, 1, i))
        row = labels[2, labels[2] != 255]
        row = row if len(row) else labels[32, labels[32] != 255]
        flips[i] = row[0] > row[-1]
        middle = changed[32, 64].astype(int)
        jitters[i] = np.abs(middle - image[32, 64]).max() > 12
        grown[i] = not (labels == 255).any()
    for one, other in ((flips, jitters), (flips, grown), (jitters, grown)):
        assert 0.4 < one.mean() < 0.6
        assert 0.4 < other.mean() < 0.6
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.15  # 3 standard errors


@pytest.mark.parametrize("size", [(32, 64), (33, 71), (64, 128), (96, 96)])
def test_samples_have_the_input_size_and_stay_8_bit(size: tuple[int, int]):
    image, target = grey_and_its_labels()
    data = Data(input_size=size)
    for changed, labels in (
        TrainTransform(data)(image, target, (0, 1, 0)),
        resized(image, target, size),
    ):
        assert (changed.shape, labels.shape) == ((*size, 3), size)
        assert changed.dtype == labels.dtype == np.uint8


@pytest.mark.parametrize("size", [(32, 64), (48, 80), (64, 128)])
@pytest.mark.parametrize("source", [(64, 128), (61, 97)])
def test_a_sample_is_that_of_albumentations_own_steps_in_the_papers_order(
    source: tuple[int, int], size: tuple[int, int]
):
    ours = TrainTransform(Data(input_size=size))
    drawn = np.random.default_rng(0)
    image = drawn.integers(0, 256, (*source, 3), dtype=np.uint8)
    target = drawn.integers(0, 19, source, dtype=np.uint8)
    steps = [
        A.RandomScale((-0.2, 0.2), p=1),
        A.PadIfNeeded(*source, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255),
        A.Resize(*size),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.5, 0.5), p=0.5),
    ]
    plain = A.Compose(steps)
    for i in range(25):
        key = np.random.SeedSequence((0, 1, i))
        plain.set_random_state(
            np.random.default_rng(key), random.Random(key.generate_state(4).tobytes())
        )
        wanted = plain(image=image, mask=target)
        changed, labels = ours(image, target, (0, 1, i))
        np.testing.assert_array_equal(changed, wanted["image"])
        np.testing.assert_array_equal(labels, wanted["mask"])


def crop(size: tuple[int, int] = (32, 32), **crop: Any) -> TrainTransform:
    """Only the crop happens."""
    augment = {"view": "crop", "flip": 0.0, "jitter": 0.0, "crop": crop}
    return TrainTransform(Data(input_size=size, augment=Augment.model_validate(augment)))


def coded() -> tuple[np.ndarray, np.ndarray]:
    """A frame whose pixels say where they are: red the row, green the column, and so its label."""
    rows, columns = np.indices(SOURCE, dtype=np.uint8)
    return np.stack([rows, columns, rows], axis=-1), (columns // 8).astype(np.uint8)


def test_a_crop_at_scale_1_is_a_piece_of_the_frame_as_it_is():
    image, target = coded()
    corners = set()
    move = crop(scale=(1, 1), cat_max_ratio=1)
    for i in DRAWS:
        piece, labels = move(image, target, (0, 1, i))
        top, left = (int(place) for place in piece[0, 0, :2])
        np.testing.assert_array_equal(piece, image[top : top + 32, left : left + 32])
        np.testing.assert_array_equal(labels, target[top : top + 32, left : left + 32])
        corners.add((top, left))
    tops, lefts = (np.array(places) for places in zip(*corners, strict=True))
    assert (tops.min(), tops.max(), lefts.min(), lefts.max()) == (0, 32, 0, 96)
    assert 13 < tops.mean() < 19 and 42 < lefts.mean() < 54  # evenly from the whole frame


def test_a_crops_scale_is_drawn_evenly_and_image_and_labels_move_together():
    image, target = coded()
    scales = []
    move = crop()
    for i in DRAWS:
        piece, labels = move(image, target, (1, 2, i))
        inside = labels != 255
        assert not piece[~inside].any()
        # bilinear against nearest: half a pixel of the frame, which may lie across a border
        there = piece[..., 1].astype(int)
        assert (np.abs(there // 8 - labels)[inside] <= 1).all()
        assert (there // 8 == labels)[inside].mean() > 0.8
        width = inside[0].sum()
        scales.append((width - 1) / max(1, int(there[0, width - 1]) - int(there[0, 0])))
    assert 0.47 < min(scales) < 0.6 and 1.8 < max(scales) < 2.3
    assert 1.15 < np.mean(scales) < 1.35


def test_a_window_larger_than_the_frame_is_padded_below_and_on_the_right():
    image, target = coded()
    piece, labels = crop((96, 96), scale=(1, 1))(image, target, (0, 1, 0))
    np.testing.assert_array_equal(piece[:64, :96], image[:, piece[0, 0, 1] :][:, :96])
    assert (labels[64:] == 255).all() and not piece[64:].any() and (labels[:64] != 255).all()


@pytest.mark.parametrize(("ratio", "least", "most"), [(1.0, 0.35, 0.6), (0.75, 0.0, 0.03)])
def test_a_crop_with_too_much_of_one_class_is_drawn_again(ratio: float, least: float, most: float):
    """A frame of which the left 77 columns are of one class: of 97 places of a window 46 hold only
    that, and 43 less than three quarters of it; one in 300 draws misses those ten times."""
    target = np.zeros(SOURCE, np.uint8)
    target[:, 77:] = 1 + np.arange(64)[:, None] % 18
    image = np.zeros((*SOURCE, 3), np.uint8)
    move = crop(scale=(1, 1), cat_max_ratio=ratio)
    pieces = [move(image, target, (0, 1, i))[1] for i in range(200)]
    assert least <= np.mean([(labels == 0).all() for labels in pieces]) <= most
    if ratio < 1:
        assert np.mean([(labels == 0).mean() < ratio for labels in pieces]) > 0.97


def test_a_crop_that_is_to_show_a_class_does():
    random = np.random.default_rng(0)
    image = np.zeros((*SOURCE, 3), np.uint8)
    move = crop(scale=(0.6, 2.0))
    for i in range(100):
        target = np.zeros(SOURCE, np.uint8)
        row, column = random.integers(0, 62), random.integers(0, 126)
        target[row : row + 2, column : column + 2] = 17
        labels = move(image, target, (0, 1, i), 17)[1]
        assert (labels == 17).any(), (i, row, column)


def test_a_class_that_a_frame_lacks_is_no_matter():
    image, target = coded()
    wanted = crop()(image, target, (0, 1, 0))
    np.testing.assert_array_equal(crop()(image, target, (0, 1, 0), 18)[0], wanted[0])


def distort(**strength: float) -> TrainTransform:
    augment = {"scale": 0.0, "flip": 0.0, "colour": "distortion", "distortion": strength}
    return TrainTransform(Data(input_size=SIZE, augment=Augment.model_validate(augment)))


OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def spread(name: str, limit: float) -> list[np.ndarray]:
    """What a constant image (200, 100, 50) becomes when only one distortion is on."""
    image = np.full((*SOURCE, 3), (200, 100, 50), np.uint8)
    move = distort(**{**OFF, name: limit})
    return [move(image, image[..., 0], (0, 1, i))[0][0, 0].astype(int) for i in DRAWS]


def test_brightness_is_added_and_contrast_a_factor_each_to_every_second_sample():
    for name, limit in (("brightness", 0.125), ("contrast", 0.5)):
        drawn = spread(name, limit)
        still = np.mean([(pixel == (200, 100, 50)).all() for pixel in drawn])
        assert 0.4 < still < 0.6
        change = np.array([pixel - (200, 100, 50) for pixel in drawn if pixel[0] < 255])
        if name == "brightness":
            assert (np.ptp(change, axis=1) == 0).all()
            assert -33 < change.min() < -28 and 27 < change.max() < 33
        else:
            factor = 1 + change / (200, 100, 50)
            assert (np.ptp(factor, axis=1) < 0.03).all()
            assert 0.48 < factor.min() < 0.55


def test_saturation_and_hue_are_those_of_hsv():
    """The largest channel is the value: it stays. Hue 20 of 360 degrees, saturation 0.75."""
    for pixel in spread("saturation", 0.5):
        assert abs(max(pixel) - 200) <= 2
        assert 0.35 < 1 - min(pixel) / 200 <= 1.01
    saturations = [1 - min(pixel) / 200 for pixel in spread("saturation", 0.5)]
    assert min(saturations) < 0.42 and max(saturations) > 0.95
    hues = [colorsys.rgb_to_hsv(*(pixel / 255))[0] * 360 for pixel in spread("hue", 0.1)]
    around = [(hue + 180) % 360 - 180 for hue in hues]
    assert -20 < min(around) < -12 and 52 < max(around) < 60
    assert 15 < np.median(around) < 25


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 4)), min_size=1))
def test_crops_and_distortions_are_a_function_of_seed_epoch_and_index_alone(
    draws: list[tuple[int, int, int]],
):
    """In whatever order, from however many transforms, with whatever drawn in between."""
    image, target = coded()
    augment = {"view": "crop", "colour": "distortion"}
    data = Data(input_size=(32, 32), augment=Augment.model_validate(augment))
    shared = TrainTransform(data)
    for draw in draws:
        label = draw[2] if draw[2] < 3 else None
        again = TrainTransform(data)(image, target, draw, label)
        for one, other in zip(shared(image, target, draw, label), again, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == np.uint8


def test_validation_resizes_the_image_bilinearly_and_the_labels_by_nearest():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*SOURCE, 3), dtype=np.uint8)
    target = random.integers(0, 19, SOURCE, dtype=np.uint8)
    changed, labels = resized(image, target, (32, 64))
    plain = A.Resize(32, 64)(image=image, mask=target)
    np.testing.assert_array_equal(changed, plain["image"])
    np.testing.assert_array_equal(labels, plain["mask"])
    assert (labels == target[::2, ::2]).all()


def test_importing_asks_no_network():
    """albumentations looks for a newer version of itself when imported, unless told not to."""
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): sys.exit('connected')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "import os; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "import cityseg.augment\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
