"""Colours and how they are varied."""

import numpy as np

Real = float | int
Color = tuple[Real, Real, Real]
"""RGB, 0-255."""


def tone(color: Color, rng: np.random.Generator, spread: Real = 9) -> Color:
    """A colour near `color`: brightness and each channel moved by normal noise."""
    moved = np.asarray(color) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    red, green, blue = np.clip(moved, 0, 255).tolist()
    return red, green, blue


def shade(color: Color, gain: Real) -> Color:
    """A lighter (gain > 1) or darker colour."""
    red, green, blue = (min(255.0, channel * gain) for channel in color)
    return red, green, blue
