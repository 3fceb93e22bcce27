"""The census of a training part: every labelled pixel once, and only where it is of use."""

from typing import Any

import numpy as np
import pytest
from tiny import tiny_config

from cityseg.census import census_of
from cityseg.data import Frame, read_frame

UNIFORM = {"augment": {"view": "crop", "crop": {"class_uniform": 0.5}}}


@pytest.mark.parametrize(
    "settings", [{"loss": {"class_weights": "median_frequency"}}, {"data": UNIFORM}]
)
def test_every_labelled_pixel_is_counted_once(frames: list[Frame], settings: dict[str, Any]):
    census = census_of(frames, tiny_config(**settings), read_frame)
    assert census is not None
    for counts, frame in zip(census, frames, strict=True):
        target = read_frame(frame)[1]
        assert counts.tolist() == [int((target == c).sum()) for c in range(19)]


def test_the_papers_recipe_needs_none(frames: list[Frame]):
    def read(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("frames were read for nothing")

    assert census_of(frames, tiny_config(), read) is None
