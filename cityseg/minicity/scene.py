"""The raster that a frame is painted on, and the strokes, in the world, that paint it."""

from collections.abc import Callable, Sequence
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, Int32, UInt8

from cityseg.labels import LABELS
from cityseg.minicity.color import Color, Real, shade, tone
from cityseg.minicity.geometry import CIRCLE, Camera, Face, Points
from cityseg.minicity.looks import Look

ID: Final = {label.name: label.id for label in LABELS}
SUPERSAMPLING: Final = 2
FRACTION_BITS: Final = 4
"""Of the fixed-point coordinates that OpenCV draws with."""

Ink = tuple[Real, Real, Real, int]
"""A colour and the label id that goes with it: the raster's four channels."""


class Scene:
    """A raster being painted, back to front, and the random draws that decide what is painted."""

    def __init__(self, height: int, camera: Camera, look: Look, rng: np.random.Generator):
        size = height * SUPERSAMPLING
        self.raster: UInt8[np.ndarray, "y x 4"] = np.zeros((size, 2 * size, 4), np.uint8)
        self.shadows: UInt8[np.ndarray, "h w"] = np.zeros((height, 2 * height), np.uint8)
        self.camera, self.look, self.rng = camera, look, rng
        self.props: list[tuple[tuple[int, Real], Callable[[], None]]] = []

    def later(self, layer: int, z: Real, draw: Callable[[], None]) -> None:
        """Draw by layer (0 houses, 1 gardens, 2 street), and within it from far to near."""
        self.props.append(((layer, -z), draw))

    def draw_props(self) -> None:
        """Draw all that was put off."""
        for _, draw in sorted(self.props, key=lambda prop: prop[0]):
            draw()

    def inks(self, colors: Float[np.ndarray, "n 3"], z: Real, label: str) -> list[Ink]:
        """Colours seen through the haze, each with the label id as fourth channel."""
        veil = 1 - float(np.exp(-z / self.look.haze_m))
        hazed = colors + veil * (np.array(self.look.sky[1]) - colors)
        return [(red, green, blue, ID[label]) for red, green, blue in hazed.tolist()]

    def fill(self, points: Points, color: Color, label: str) -> None:
        """Fill one polygon [k, 3] or several [n, k, 3]."""
        shapes = points if points.ndim == 3 else points[None]
        if len(shapes):
            inks = self.inks(np.array([color], float), float(shapes[0, :, 2].mean()), label)
            self.fill_flat(self.camera.project(shapes), inks * len(shapes))

    def fill_flat(self, shapes: Float[np.ndarray, "n k 2"], inks: Sequence[Ink]) -> None:
        """Fill polygons given in frame heights, each with its ink; adds no haze."""
        for shape, ink in zip(self.fixed(shapes, len(self.raster)), inks, strict=True):
            cv2.fillPoly(self.raster, [shape], ink, shift=FRACTION_BITS)

    @staticmethod
    def fixed(picture: Float[np.ndarray, "*n 2"], height: int) -> Int32[np.ndarray, "*n 2"]:
        """Frame heights to OpenCV's fixed-point pixels; far outside the frame is cut."""
        return np.rint(np.clip(picture, -9, 9) * (height << FRACTION_BITS)).astype(np.int32)

    def board(
        self, x: Real, z: Real, outline: Sequence[tuple[Real, Real]], color: Color, label: str
    ) -> None:
        """Fill a shape that faces the camera: (metres right of x, metres above the ground)."""
        self.fill(np.array([(x + dx, y, z) for dx, y in outline]), color, label)

    def disc(
        self, x: Real, y: Real, z: Real, radius: tuple[Real, Real], color: Color, label: str
    ) -> None:
        """Fill an ellipse that faces the camera."""
        rim = CIRCLE * (*radius, 0) + (x, y, z)
        self.fill(rim, color, label)

    def rod(self, points: Points, width_m: Real, color: Color, label: str) -> None:
        """Draw a line of poles' kind: never thinner than a pixel of the frame."""
        z = float(points[:, 2].mean())
        path = self.fixed(self.camera.project(points), len(self.raster))
        width = width_m * self.camera.focal / z * len(self.raster)
        thickness = max(SUPERSAMPLING, round(width))
        (ink,) = self.inks(np.array([color], float), z, label)
        cv2.polylines(self.raster, [path], False, ink, thickness, shift=FRACTION_BITS)

    def shadow(self, footprint: list[tuple[Real, Real]], strength: Real) -> None:
        """Darken the ground (and nothing else) under a polygon of (x, z)."""
        ground = np.array([(x, 0.0, z) for x, z in footprint])
        shape = self.fixed(self.camera.project(ground), len(self.shadows))
        layer = np.zeros_like(self.shadows)
        cv2.fillPoly(layer, [shape], round(255 * strength), shift=FRACTION_BITS)
        np.maximum(self.shadows, layer, out=self.shadows)

    def chance(self, probability: Real) -> bool:
        """A weighted coin."""
        return bool(self.rng.random() < probability)

    def pick(self, colors: tuple[Color, ...]) -> Color:
        """One of the colours, a little changed."""
        return tone(colors[self.rng.integers(len(colors))], self.rng)


def box(
    scene: Scene, x: Real, z: Real, size: tuple[Real, Real, Real], bottom: Real, color: Color,
    label: str,
) -> tuple[Face, Face]:  # fmt: skip
    """Paint a block (width, height, length) centred on x whose near end is at z.

    Returns:
        Its face along the street that can be seen, and its near face.
    """
    width, height, length = size
    inner = x - width / 2 if x > scene.camera.x_m else x + width / 2
    side = Face((inner, bottom, z), (0, 0, length), (0, height, 0))
    near = Face((x - width / 2, bottom, z), (width, 0, 0), (0, height, 0))
    top = Face((x - width / 2, bottom + height, z), (width, 0, 0), (0, 0, length))
    whole = np.array([[0.0, 1, 0, 1]])
    lit = 1.1 if np.sign(inner - x) == scene.look.sun else 0.86
    if bottom + height < scene.camera.eye_m:
        scene.fill(top.panels(whole), shade(color, 1.15), label)
    # in steps, so that a long face fades into the haze along its length
    steps = np.arange(0, 1, min(1.0, 8 / length))[::-1]
    for start in steps:
        part = np.array([[start, min(1.0, start + 8 / length), 0, 1]])
        scene.fill(side.panels(part), shade(color, lit), label)
    scene.fill(near.panels(whole), color, label)
    return side, near
