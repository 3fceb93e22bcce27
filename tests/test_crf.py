"""The CRF's mean field against one by whole matrices, and what it must do to a picture."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from cityseg.config import Crf
from cityseg.crf import Messages, refine


def brute_force(scores: np.ndarray, image: np.ndarray, settings: Crf, radius: int) -> np.ndarray:
    """Algorithm 1 of the paper with its kernels as [pixels x pixels] matrices; probabilities."""
    c, h, w = scores.shape
    y, x = (grid.ravel() for grid in np.mgrid[:h, :w])
    dy, dx = y[:, None] - y, x[:, None] - x
    colors = image.reshape(3, -1).T.astype(float)
    color = ((colors[:, None] - colors) ** 2).sum(-1) / settings.color_sd**2
    reached = (abs(dy) <= radius) & (abs(dx) <= radius) & ((dy != 0) | (dx != 0))
    appearance = np.exp(-0.5 * ((dy**2 + dx**2) / settings.position_sd_px**2 + color)) * reached
    smoothness = np.exp(-0.5 * (dy**2 + dx**2) / settings.smoothness_sd_px**2) * reached
    kernel = np.zeros_like(appearance)
    for weight, part in (
        (settings.appearance_weight, appearance), (settings.smoothness_weight, smoothness),
    ):  # fmt: skip
        norm = 1 / np.sqrt(part.sum(1) + 1e-20)
        kernel += weight * norm[:, None] * part * norm
    unary = -np.log(softmax(scores.reshape(c, -1).astype(float), 0))
    disagree = 1 - np.eye(c)  # Potts
    beliefs = np.exp(-unary)
    for _ in range(settings.iterations):
        beliefs = softmax(-unary - disagree @ (beliefs @ kernel), 0)
    return beliefs.reshape(c, h, w)


def drawn(seed: int, c: int, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.normal(0, 1.5, (c, h, w)).astype(np.float32)
    image = random.choice([0, 10, 30, 200], (3, h, w)).astype(np.uint8)
    return scores, image


def refined(scores: np.ndarray, image: np.ndarray, settings: Crf) -> np.ndarray:
    found = refine(torch.from_numpy(scores)[None], torch.from_numpy(image)[None], settings)
    return softmax(found[0].double().numpy(), 0)


@given(
    seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    radius=st.integers(1, 9), iterations=st.integers(1, 4),
)  # fmt: skip
def test_the_mean_field_is_the_one_by_whole_matrices(
    seed: int, size: tuple[int, int], radius: int, iterations: int
):
    """With a window as large as the image it is the dense CRF's."""
    scores, image = drawn(seed, 4, *size)
    settings = Crf(
        iterations=iterations, radius=radius, blur=1, position_sd_px=4, appearance_weight=2,
        smoothness_weight=1.5, smoothness_sd_px=1.5,
    )  # fmt: skip
    expected = brute_force(scores, image, settings, radius)
    np.testing.assert_allclose(refined(scores, image, settings), expected, atol=2e-5)


def test_no_round_leaves_the_scores_as_they_are():
    scores = torch.randn(1, 3, 8, 8)
    assert refine(scores, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), Crf()) is scores


@pytest.mark.parametrize("blur", [1, 2, 3])
def test_a_doubtful_edge_moves_to_where_the_colour_changes(blur: int):
    """Scores whose edge lies 2 pixels beside the picture's, with flecks: both are mended."""
    image = np.zeros((3, 24, 36), np.uint8)
    image[:, :, 18:] = 200
    truth = (np.arange(36) >= 18) * np.ones((24, 1), int)
    belief = (np.arange(36) >= 20) * np.ones((24, 1), int)
    belief[5, 5], belief[12, 28] = 1, 0
    scores = np.stack([belief == 0, belief == 1]).astype(np.float32)
    found = refined(scores, image, Crf(iterations=5, blur=blur, radius=5)).argmax(0)
    assert (belief != truth).sum() == 50
    assert (found != truth).sum() == 0


def test_blocks_are_as_far_apart_as_their_pixels_are():
    """Messages between blocks of 4 pixels are those between pixels, at a quarter of the widths."""
    scores, image = drawn(3, 3, 7, 9)
    beliefs, colors = (torch.from_numpy(part)[None].float() for part in (scores, image))
    blocks = Crf(iterations=1, blur=4, position_sd_px=20, smoothness_sd_px=6)
    pixels = Crf(iterations=1, blur=1, position_sd_px=5, smoothness_sd_px=1.5)
    found, expected = (Messages(colors, settings)(beliefs) for settings in (blocks, pixels))
    torch.testing.assert_close(found, expected)


def test_sizes_need_not_be_multiples_of_the_blocks():
    scores, image = drawn(4, 3, 11, 14)
    assert refined(scores, image, Crf(iterations=1, blur=4)).shape == (3, 11, 14)


def test_frames_of_a_batch_do_not_hear_each_other():
    parts = [drawn(seed, 3, 6, 7) for seed in (1, 2)]
    settings = Crf(iterations=2, blur=1)
    together = refine(
        torch.from_numpy(np.stack([scores for scores, _ in parts])),
        torch.from_numpy(np.stack([image for _, image in parts])), settings,
    )  # fmt: skip
    for (scores, image), one in zip(parts, together, strict=True):
        found = softmax(one.double().numpy(), 0)
        np.testing.assert_allclose(found, refined(scores, image, settings), atol=1e-6)
