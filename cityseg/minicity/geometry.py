"""The world in metres, x right, y up, z ahead, and the pinhole camera that sees it."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from cityseg.minicity.color import Real

NEAR_M: Final = 1.5
FAR_M: Final = 160.0
Points = Float[np.ndarray, "*n 3"]
ANGLES: Final = np.arange(0, 2 * np.pi, np.pi / 8)
CIRCLE: Final = np.stack([np.cos(ANGLES), np.sin(ANGLES), np.zeros_like(ANGLES)], -1)
"""Unit circle that faces the camera, float64[16, 3]."""


@dataclass(frozen=True)
class Camera:
    """A pinhole above a flat, slightly bent street."""

    horizon: Real
    """Row of the horizon, in frame heights from the top."""
    center: Real
    focal: Real
    """In frame heights."""
    x_m: Real
    eye_m: Real
    bend: Real
    """Sideways drift of the street: x shifts by bend z^2 metres."""

    def project(self, points: Points) -> Float[np.ndarray, "*n 2"]:
        """World metres to (column, row) in frame heights; what lies behind is pulled to NEAR_M."""
        x, y, z = points[..., 0], points[..., 1], np.maximum(points[..., 2], NEAR_M)
        picture = np.empty((*z.shape, 2))
        picture[..., 0] = self.center + self.focal * ((x - self.x_m) / z + self.bend * z)
        picture[..., 1] = self.horizon + self.focal * (self.eye_m - y) / z
        return picture

    def depth_of_row(self, row: Float[np.ndarray, " h"]) -> Float[np.ndarray, " h"]:
        """Distance in metres at which the ground is seen; FAR_M above the horizon."""
        below = np.maximum(row - self.horizon, 1e-6)
        return np.minimum(self.focal * self.eye_m / below, FAR_M)


class Face(NamedTuple):
    """A parallelogram in the world, on which panels are placed by shares of its two edges."""

    origin: tuple[Real, Real, Real]
    along: tuple[Real, Real, Real]
    up: tuple[Real, Real, Real]

    def panels(self, rects: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4 3"]:
        """Corners of the panels (from, to, bottom, top), each 0-1."""
        s = rects[:, [0, 1, 1, 0], None]
        t = rects[:, [2, 2, 3, 3], None]
        return np.array(self.origin) + s * np.array(self.along) + t * np.array(self.up)


def grid(
    columns: int, rows: int, share: tuple[Real, Real], lift: Real = 0.0
) -> Float[np.ndarray, "n 4"]:
    """Panels in the middle of each bay of a face, each `share` of its bay wide and high."""
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))
    left = (column.ravel() + (1 - share[0]) / 2) / columns
    low = (row.ravel() + (1 - share[1]) / 2) / rows + lift
    return np.stack([left, left + share[0] / columns, low, low + share[1] / rows], -1)
