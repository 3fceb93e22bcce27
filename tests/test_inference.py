"""Views, windows and their means: what they must leave alone, and what they must add up to."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, UInt8
from tiny import scene, tiny_config, write_frame
from torch import Tensor
from torch.nn.functional import conv2d, softmax

from cityseg.config import Config, Inference
from cityseg.confusion import counts_of_one
from cityseg.data import Frame, read_image, read_target
from cityseg.evaluate import Evaluation, Forward, count, evaluate, predict
from cityseg.inference import gaussian, mean_of_softmax, scorer, starts
from cityseg.inputs import normalise
from cityseg.model import UNet, initial_model
from cityseg.samples import val_loader

CPU = torch.device("cpu")
CLASSES = 5


def pointwise(image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 5 h w"]:
    """A network that looks at one pixel: the same wherever that is, and mirrored with the image."""
    weight = torch.linspace(-3, 3, CLASSES * 3).reshape(CLASSES, 3, 1, 1).cos()
    return conv2d(image.float() / 64, weight)


def leaning(image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 5 h w"]:
    """A network that favours the last class the more, the farther to the right a pixel is."""
    scores = pointwise(image).clone()
    scores[:, -1] += torch.linspace(-2, 2, image.shape[-1])
    return scores


def picture(h: int, w: int, seed: int = 0) -> UInt8[Tensor, "1 3 {h} {w}"]:
    return torch.from_numpy(scene(seed, (h, w))[0])[None].permute(0, 3, 1, 2)


def probabilities(scores: Tensor) -> np.ndarray:
    return softmax(scores.double(), 1).numpy()


def assert_same(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(probabilities(found), probabilities(expected), rtol=0, atol=atol)


# ------------------------------------------------------------------------------- what is left alone


def test_the_defaults_hand_the_networks_logits_on_to_the_bit():
    image = picture(40, 70)
    assert torch.equal(scorer(Inference(), [leaning])(image), leaning(image))


def test_mirroring_does_nothing_to_a_network_that_mirrors_with_its_image():
    image = picture(40, 70)
    assert_same(scorer(Inference(flip=True), [pointwise])(image), pointwise(image))


@given(
    h=st.integers(32, 90), w=st.integers(32, 90), window=st.tuples(*[st.integers(32, 64)] * 2),
    overlap=st.floats(0, 0.9),
)  # fmt: skip
def test_windows_do_nothing_to_a_network_that_looks_at_one_pixel(
    h: int, w: int, window: tuple[int, int], overlap: float
):
    """So every pixel is covered, and the weights at each sum to one: also of constant logits."""
    image = picture(h, w)
    settings = Inference(window=window, overlap=overlap)
    assert_same(scorer(settings, [pointwise])(image), pointwise(image), atol=1e-5)


def test_one_window_over_the_whole_image_is_the_plain_path_to_the_bit():
    image = picture(40, 70)
    for window in ((40, 70), (64, 70), (100, 200)):
        assert torch.equal(scorer(Inference(window=window), [leaning])(image), leaning(image))


@pytest.mark.parametrize("settings", [
    {"flip": True}, {"scales": (0.5, 1.0)}, {"window": (32, 32)},
    {"flip": True, "scales": (0.75, 1.25), "window": (32, 48), "crf": {"iterations": 2}},
])  # fmt: skip
def test_an_ensemble_of_copies_is_the_one_network(settings: dict):
    image = picture(64, 96)
    chosen = Inference.model_validate(settings)
    assert_same(scorer(chosen, [leaning] * 3)(image), scorer(chosen, [leaning])(image))


# ---------------------------------------------------------------------------- what they add up to


def test_the_flipped_view_is_the_mean_with_the_mirror_image_turned_back():
    image = picture(40, 70)
    mirrored = probabilities(leaning(image.flip(-1)))[..., ::-1]
    expected = (probabilities(leaning(image)) + mirrored) / 2
    found = scorer(Inference(flip=True), [leaning])(image)
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-6)


def test_scales_and_mirrors_are_one_mean_over_all_of_them():
    """Each view has the same weight; the bright side of the picture is what is mirrored."""
    image = torch.zeros(1, 3, 64, 128, dtype=torch.uint8)
    image[..., :64] = 200
    looks: list[tuple[int, int, bool]] = []

    def recording(view: Tensor) -> Tensor:
        h, w = view.shape[-2:]
        looks.append((h, w, bool(view[0, 0, 0, 0] == 0)))
        return torch.stack([torch.full((1, h, w), float(len(looks))), torch.zeros(1, h, w)], 1)

    found = scorer(Inference(flip=True, scales=(0.5, 1.0, 1.5)), [recording])(image)
    sizes = [(32, 64), (64, 128), (96, 192)]
    assert looks == [(*size, mirrored) for size in sizes for mirrored in (False, True)]
    expected = np.mean([1 / (1 + np.exp(-logit)) for logit in range(1, 7)])
    np.testing.assert_allclose(probabilities(found)[:, 0], expected, atol=1e-6)


def test_an_ensemble_is_the_mean_of_its_networks_softmax():
    image = picture(40, 70)
    members = [pointwise, leaning, lambda image: 3 * pointwise(image)]
    expected = np.mean([probabilities(member(image)) for member in members], axis=0)
    np.testing.assert_allclose(
        probabilities(scorer(Inference(), members)(image)), expected, atol=1e-6
    )


def test_windows_weigh_each_pixel_by_its_distance_from_their_middles():
    """Two windows of 32 over 48 pixels, each sure of a class of its own: by hand at some pixels."""
    answers = iter((0, 1))

    def sure(view: Tensor) -> Tensor:
        scores = torch.zeros(1, 2, *view.shape[-2:])
        scores[:, next(answers)] = 30
        return scores

    found = probabilities(scorer(Inference(window=(32, 32)), [sure])(picture(32, 48)))
    assert found[0, 0, 5, 10] == pytest.approx(1) and found[0, 1, 5, 40] == pytest.approx(1)
    for column in (16, 20, 23, 31):  # windows begin at 0 and 16; a sd is 4 px
        left, right = (np.exp(-0.5 * ((column - middle) / 4) ** 2) for middle in (15.5, 31.5))
        assert found[0, 0, 5, column] == pytest.approx(left / (left + right), abs=1e-5)


@given(length=st.integers(32, 5000), window=st.integers(32, 2000), overlap=st.floats(0, 0.9))
def test_windows_begin_evenly_overlap_enough_and_end_at_the_end(
    length: int, window: int, overlap: float
):
    window = min(window, length)
    found = starts(length, window, overlap)
    steps = np.diff(found)
    assert found[0] == 0 and found[-1] == length - window
    assert len(found) == 1 or (steps.min() >= 1 and np.ptp(steps) <= 1)
    assert all(step <= max(1, int(window * (1 - overlap))) + 1 for step in steps)


def test_gaussian_weights_are_symmetric_and_largest_in_the_middle():
    weight = gaussian(33, 48)
    assert torch.equal(weight, weight.flip(0)) and torch.equal(weight, weight.flip(1))
    assert weight.argmax() == 16 * 48 + 23 and weight.min() > 0


def test_a_probability_of_zero_does_not_make_infinite_scores():
    sure = torch.tensor([500.0, 0.0]).reshape(1, 2, 1, 1)
    assert torch.isfinite(mean_of_softmax([sure, sure])).all()


# --------------------------------------------------------------------- through evaluate and predict


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """Frames of three sizes, one of them odd."""
    root = tmp_path_factory.mktemp("mixed")
    sizes = [(64, 128), (51, 103), (70, 90)]
    return [
        write_frame(root, "val", f"ulm_{i:06}_000019", *scene(i, size))
        for i, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def model() -> UNet:
    return initial_model(tiny_config().model, seed=1).eval()


def counts(config: Config, model: UNet, frames: list[Frame]) -> Evaluation:
    return evaluate(model, val_loader(frames, config, 0, pin=False), config, CPU)


def test_native_input_is_the_frame_itself_and_scores_at_both_resolutions(
    model: UNet, mixed: list[Frame]
):
    config = tiny_config(inference={"input": "native"})
    found = counts(config, model, mixed)
    looks: list[tuple[int, ...]] = []
    batches = val_loader(mixed, config, 0, pin=False)
    count(lambda image: looks.append(image.shape) or model(normalise(image)), batches, CPU)
    assert looks == [(1, 3, 64, 128), (1, 3, 51, 103), (1, 3, 70, 90)]
    resized = counts(tiny_config(evaluate={"batch_size": 1}), model, mixed)
    assert (found.low.sum(-1) == resized.low.sum(-1)).all()  # the same labels, other predictions
    assert (found.full.sum(-1) == resized.full.sum(-1)).all()
    assert (found.full != resized.full).any()


def test_native_input_of_the_input_size_is_the_resized_input(model: UNet, mixed: list[Frame]):
    """To the bit, as the resize of a frame that has the size already is none."""
    size = {"data": {"input_size": [64, 128]}, "evaluate": {"batch_size": 1}}
    native = counts(tiny_config(inference={"input": "native"}, **size), model, mixed[:1])
    resized = counts(tiny_config(**size), model, mixed[:1])
    assert native.loss == resized.loss
    np.testing.assert_array_equal(native.low, resized.low)
    np.testing.assert_array_equal(native.full, resized.full)


def test_evaluation_counts_what_predict_predicts_however_the_frame_is_looked_at(
    model: UNet, mixed: list[Frame]
):
    inference = {
        "input": "native", "window": [48, 64], "flip": True, "scales": [0.75, 1.0],
        "crf": {"iterations": 1, "radius": 2},
    }  # fmt: skip
    config = tiny_config(inference=inference)
    found = counts(config, model, mixed)
    for frame, full in zip(mixed, found.full, strict=True):
        predicted = torch.from_numpy(predict(model, read_image(frame.image), config, CPU))
        expected = counts_of_one(predicted, torch.from_numpy(read_target(frame.label)))
        np.testing.assert_array_equal(full, expected)


def test_a_view_costs_the_network_one_look(model: UNet):
    """One network pass a view, and as many as there are windows in each: nothing is done twice."""
    looks: list[tuple[int, int]] = []
    forward = Forward(model, tiny_config(), CPU)

    def counting(view: Tensor) -> Tensor:
        looks.append((view.shape[-2], view.shape[-1]))
        return forward(view)

    with torch.no_grad():
        scorer(Inference(flip=True, window=(64, 64)), [counting])(picture(64, 128))
    assert looks == [(64, 64)] * 6


def test_code_is_compiled_on_a_gpu_for_many_images_and_not_for_a_few(
    model: UNet, monkeypatch: pytest.MonkeyPatch
):
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda work, **_: compiled.append(work) or work)
    config = tiny_config(train={"compile": True})
    Forward(model, config, torch.device("cuda"))
    assert len(compiled) == 1
    for device in (torch.device("cuda"), CPU):
        Forward(model, config, device, fused=False)
    asked: list[bool] = []

    class Watched(Forward):
        def __init__(self, *arguments: Any, fused: bool = True):
            asked.append(fused)
            super().__init__(*arguments, fused=fused)

    monkeypatch.setattr("cityseg.evaluate.Forward", Watched)
    predict(model, np.zeros((32, 64, 3), np.uint8), config, CPU)
    assert asked == [False] and len(compiled) == 1
