"""The embedded data set: deterministic street scenes of invented cities in the Cityscapes layout.

World lengths are metres (x right, y up, z ahead); picture lengths are in units of the frame height.
Colour and label id are the four channels of one raster, so an image and its labels cannot drift
apart; the raster has twice the frame's resolution, and only the colour is averaged down.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
import platformdirs
from filelock import FileLock
from jaxtyping import Float, Float32, Int32, UInt8
from PIL import Image

from cityseg import atomic
from cityseg.config import City
from cityseg.data import IMAGE_SUFFIX, LABEL_SUFFIX, SYNTHETIC_MARK
from cityseg.errors import InputError
from cityseg.labels import LABELS

log = logging.getLogger(__name__)

VERSION: Final = 1
"""Raise it with every change that moves a pixel: it names the built folder."""

NAMES: Final = (
    "ashmere", "brightwater", "coldharbor", "dunlow", "elmstead", "fogport",
    "greyhaven", "hollowbrook", "ivorygate", "juniperfield", "kestrelton", "larkhill",
    "mossbank", "northquay", "oldmarket", "pinecrest", "quarrytown", "ravenfell",
    "saltmarsh",
)  # fmt: skip
"""Cities by index. The last one is the `val` split, whatever the number of training cities."""
VAL_CITY: Final = len(NAMES) - 1

ID: Final = {label.name: label.id for label in LABELS}
SUPERSAMPLING: Final = 2
FRACTION_BITS: Final = 4
"""Of the fixed-point coordinates that OpenCV draws with."""
NEAR_M: Final = 1.5
FAR_M: Final = 160.0
RARE: Final = ("bus", "truck", "train", "motorcycle", "wall", "fence")
"""Classes that are dealt out, two a frame, so that three frames hold all six."""

Real = float | int
Color = tuple[Real, Real, Real]
"""RGB, 0-255."""
Ink = tuple[Real, Real, Real, int]
"""A colour and the label id that goes with it: the raster's four channels."""
Points = Float[np.ndarray, "*n 3"]
Labels = UInt8[np.ndarray, "h w"]
Plane = Float32[np.ndarray, "h w"]
Light = Float32[np.ndarray, "h w 3"]
ANGLES: Final = np.arange(0, 2 * np.pi, np.pi / 8)
CIRCLE: Final = np.stack([np.cos(ANGLES), np.sin(ANGLES), np.zeros_like(ANGLES)], -1)
"""Unit circle that faces the camera, float64[16, 3]."""


# ---------------------------------------------------------------------------------- looks


@dataclass(frozen=True)
class Look:
    """What makes a city recognisable."""

    sky: tuple[Color, Color] = ((90, 140, 205), (200, 218, 232))
    """Zenith and horizon; the haze has the horizon's colour."""
    clouds: Real = 0.4
    haze_m: Real = 260.0
    """Distance at which 63 % of a colour is haze."""
    light: Color = (1.0, 1.0, 1.0)
    """Gain of red, green, blue."""
    sun: Literal[-1, 0, 1] = 1
    """Side the sun stands on; 0 is overcast, with contact shadows only."""
    wet: Real = 0.0
    """Share of the road's colour that is reflection."""
    cobbles: bool = False
    road: Color = (98, 96, 98)
    sidewalk: Color = (150, 143, 138)
    grass: Color = (104, 130, 62)
    foliage: tuple[Color, ...] = ((62, 98, 44), (80, 112, 50), (52, 84, 50))
    facades: tuple[Color, ...] = ((168, 120, 96), (150, 104, 84), (186, 160, 130), (128, 110, 100))
    roof: Color = (120, 74, 62)
    pitched: bool = True
    window: tuple[Real, Real] = (0.45, 0.6)
    """Share of a bay's width and of a storey's height."""
    lit: Real = 0.05
    """Share of the windows with a light on."""
    storeys: tuple[int, int] = (3, 5)
    gap: Real = 0.15
    """Probability of a garden in place of a building."""
    road_m: Real = 4.2
    """Half the width."""
    sidewalk_m: Real = 3.0
    verge_m: Real = 1.0
    parking: bool = False
    tree_m: Real = 16.0
    """Mean distance between street trees."""
    bustle: Real = 1.0
    """Density of people and vehicles."""


PALE: Final = ((214, 206, 190), (196, 204, 208), (222, 196, 170), (178, 190, 186), (206, 180, 180))
CONCRETE: Final = ((126, 128, 130), (146, 142, 136), (104, 110, 118), (160, 158, 154))
OCHRE: Final = ((204, 168, 108), (190, 140, 96), (216, 192, 146), (170, 116, 82))

LOOKS: Final = {
    0: Look(),
    1: Look(
        sky=((58, 128, 214), (186, 216, 240)), clouds=0.25, haze_m=500, light=(1.08, 1.06, 1.0),
        sun=-1, road=(128, 124, 120), sidewalk=(190, 180, 166), grass=(126, 150, 70),
        foliage=((70, 122, 58), (98, 140, 62)), facades=PALE, roof=(176, 104, 80), pitched=False,
        window=(0.6, 0.55), storeys=(3, 6), road_m=6.4, sidewalk_m=4.0, verge_m=1.5, parking=True,
        tree_m=20, bustle=1.2,
    ),
    2: Look(
        sky=((146, 152, 160), (194, 197, 200)), clouds=0.8, haze_m=170, light=(0.86, 0.9, 0.96),
        sun=0, wet=0.4, road=(70, 73, 80), sidewalk=(122, 122, 124), grass=(86, 104, 66),
        foliage=((56, 76, 50), (66, 84, 60)), facades=CONCRETE, roof=(80, 82, 88), pitched=False,
        window=(0.85, 0.5), lit=0.12, storeys=(6, 12), gap=0.1, road_m=5.8, sidewalk_m=3.4,
        verge_m=1.2, tree_m=30, bustle=1.3,
    ),
    3: Look(
        sky=((120, 134, 186), (246, 208, 160)), clouds=0.5, haze_m=200, light=(1.1, 0.98, 0.82),
        sun=1, cobbles=True, road=(120, 110, 102), sidewalk=(156, 140, 124), grass=(120, 122, 62),
        foliage=((84, 96, 44), (98, 100, 50)), facades=OCHRE, roof=(140, 70, 48),
        window=(0.38, 0.5), lit=0.22, storeys=(2, 4), gap=0.08, road_m=3.4, sidewalk_m=1.9,
        verge_m=0.9, tree_m=34, bustle=1.4,
    ),
    4: Look(
        sky=((106, 158, 214), (214, 222, 224)), clouds=0.5, haze_m=300, light=(1.04, 1.0, 0.92),
        sun=-1, road=(106, 104, 108), sidewalk=(164, 158, 150), grass=(112, 138, 66),
        foliage=((176, 112, 40), (150, 132, 48), (104, 112, 48), (164, 82, 38)),
        facades=(*PALE[:2], (150, 92, 74), (124, 130, 120)), roof=(92, 70, 66), window=(0.35, 0.45),
        storeys=(1, 3), gap=0.4, road_m=4.0, sidewalk_m=2.0, verge_m=4.5, tree_m=9, bustle=0.7,
    ),
    5: Look(
        sky=((190, 192, 190), (208, 207, 202)), clouds=0.15, haze_m=62, light=(0.95, 0.96, 0.94),
        sun=0, wet=0.15, road=(94, 92, 88), sidewalk=(134, 130, 124), grass=(110, 118, 84),
        foliage=((80, 94, 70), (92, 100, 74)),
        facades=((132, 82, 68), (112, 76, 66), (120, 116, 112), (146, 120, 98)), roof=(74, 70, 70),
        pitched=False, window=(0.55, 0.7), lit=0.15, storeys=(2, 5), gap=0.25, road_m=5.2,
        sidewalk_m=2.6, verge_m=1.6, parking=True, tree_m=22, bustle=0.8,
    ),
    VAL_CITY: Look(
        sky=((132, 160, 196), (218, 222, 222)), clouds=0.7, haze_m=220, light=(1.0, 1.0, 0.97),
        sun=1, road=(90, 90, 94), sidewalk=(146, 142, 138), grass=(108, 126, 66),
        foliage=((70, 100, 48), (96, 110, 50), (60, 88, 54)),
        facades=(PALE[0], CONCRETE[1], OCHRE[1], (150, 104, 84)), storeys=(2, 6), gap=0.2,
        road_m=4.6, sidewalk_m=2.8, verge_m=1.2, tree_m=15,
    ),
}  # fmt: skip
"""The hand-made cities; all others are drawn."""


def look_of(city_index: int, seed: int) -> Look:
    """A city's look: hand-made, or each trait taken from a random hand-made city, colours moved."""
    if city_index in LOOKS:
        return LOOKS[city_index]
    rng = np.random.default_rng((seed, city_index, 0, 2))
    parents = list(LOOKS.values())
    traits: dict[str, Any] = {
        field.name: getattr(parents[rng.integers(len(parents))], field.name)
        for field in fields(Look)
    }
    facades = tuple(tone(color, rng, 18) for color in traits["facades"])
    moved = {key: tone(traits[key], rng, 12) for key in ("road", "sidewalk", "grass", "roof")}
    return replace(Look(**traits), facades=facades, **moved)


def tone(color: Color, rng: np.random.Generator, spread: Real = 9) -> Color:
    """A colour near `color`: brightness and each channel moved by normal noise."""
    moved = np.asarray(color) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    red, green, blue = np.clip(moved, 0, 255).tolist()
    return red, green, blue


def shade(color: Color, gain: Real) -> Color:
    """A lighter (gain > 1) or darker colour."""
    red, green, blue = (min(255.0, channel * gain) for channel in color)
    return red, green, blue


# ---------------------------------------------------------------------------------- drawing


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


# ---------------------------------------------------------------------------------- houses


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


def grid(
    columns: int, rows: int, share: tuple[Real, Real], lift: Real = 0.0
) -> Float[np.ndarray, "n 4"]:
    """Panels in the middle of each bay of a face, each `share` of its bay wide and high."""
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))
    left = (column.ravel() + (1 - share[0]) / 2) / columns
    low = (row.ravel() + (1 - share[1]) / 2) / rows + lift
    return np.stack([left, left + share[0] / columns, low, low + share[1] / rows], -1)


def windows(scene: Scene, face: Face, bays: int, storeys: int, label: str) -> None:
    """Dark, sky-lit and lamp-lit panes on a face."""
    panes = face.panels(grid(max(1, bays), max(1, storeys), scene.look.window))
    kind = scene.rng.random(len(panes))
    sky = shade(scene.look.sky[1], 0.62)
    scene.fill(panes[kind < 0.7], (46, 52, 60), label)
    scene.fill(panes[(kind >= 0.7) & (kind < 1 - scene.look.lit)], sky, label)
    scene.fill(panes[kind >= 1 - scene.look.lit], (250, 214, 140), label)


def house(scene: Scene, side: int, x: Real, z: Real, length: Real) -> None:
    """A building whose front stands on the plane `x`, with windows, ground floor and roof."""
    storeys = int(scene.rng.integers(scene.look.storeys[0], scene.look.storeys[1] + 1))
    height, depth = 1.2 + 3.1 * storeys, 12.0
    color = scene.pick(scene.look.facades)
    middle = x + side * depth / 2
    if scene.look.pitched:
        roof(scene, side, x, (z, length, height, depth))
    front, end = box(scene, middle, z, (depth, height, length), 0, color, "building")
    windows(scene, front, round(length / 3), storeys, "building")
    windows(scene, end, 3, storeys, "building")
    base = np.array([[0, 1, 0, 1.0 / height]])
    scene.fill(front.panels(base), shade(color, 0.6), "building")
    if scene.chance(0.4):
        awning = np.array([[0.1, 0.9, 2.9 / height, 3.5 / height]])
        scene.fill(front.panels(awning), tone((150, 60, 60), scene.rng, 50), "building")
    doors = grid(max(1, round(length / 6)), 1, (0.2, 1)) * (1, 1, 1, 2.2 / height)
    scene.fill(front.panels(doors), (62, 46, 40), "building")
    if scene.look.sun == side:
        reach = min(0.7 * height, 9.0)
        inner = x - side * reach
        shift = 0.25 * height
        far = z + length
        scene.shadow([(x, z), (x, far), (inner, far + shift), (inner, z + shift)], 0.9)


def roof(scene: Scene, side: int, x: Real, block: tuple[Real, Real, Real, Real]) -> None:
    """A pitched roof: the slope to the street and the near gable."""
    z, length, height, depth = block
    ridge_x, ridge_y = x + side * depth / 2, height + 3.4
    color = tone(scene.look.roof, scene.rng)
    slope = [(x, height, z), (ridge_x, ridge_y, z), (ridge_x, ridge_y, z + length)]
    gable = [(x, height, z), (ridge_x, ridge_y, z), (x + side * depth, height, z)]
    scene.fill(np.array([*slope, (x, height, z + length)]), color, "building")
    scene.fill(np.array(gable), shade(color, 0.8), "building")


def barrier(scene: Scene, label: str, x: Real, reach: tuple[Real, Real]) -> None:
    """A wall, fence or guard rail along the street, from one distance to another."""
    height = {"wall": 2.3, "fence": 1.7, "guard rail": 0.8}[label]
    base: dict[str, Color] = {
        "wall": shade(scene.pick(scene.look.facades), 0.9),
        "fence": tone((112, 110, 96), scene.rng, 14),
        "guard rail": (166, 168, 170),
    }
    color, length = base[label], reach[1] - reach[0]
    body = (0.3, height, length)
    front, _ = box(scene, x, reach[0], body, 0, color, label)
    if label == "wall":
        courses = grid(round(length), 6, (1.0, 0.2))
        scene.fill(front.panels(courses), shade(color, 0.82), label)
        scene.fill(front.panels(np.array([[0, 1, 0.93, 1]])), shade(color, 1.25), label)
    if label == "fence":
        scene.fill(front.panels(grid(round(length * 4), 1, (0.45, 0.94))), shade(color, 0.5), label)
        scene.fill(front.panels(grid(1, 2, (1.0, 0.08))), shade(color, 1.3), label)
    if label == "guard rail":
        scene.fill(front.panels(grid(1, 2, (1.0, 0.35))), shade(color, 0.7), label)


# ---------------------------------------------------------------------------------- plants


def crown(scene: Scene, x: Real, y: Real, z: Real, radius: tuple[Real, Real], color: Color) -> None:
    """A mass of leaves: blobs from the dark underside to the lit top."""
    count = 34 if z < 50 else 12
    place = scene.rng.normal(0, 0.48, (count, 2)).clip(-0.8, 0.8)
    place = place[np.argsort(place[:, 1])]
    gains = 0.85 + place @ (0.16 * scene.look.sun, 0.35) + scene.rng.normal(0, 0.07, count)
    blobs = CIRCLE[:, :2] * scene.rng.uniform(0.22, 0.42, (count, 1, 1)) + place[:, None]
    rims = np.insert(blobs * radius + (x, y), 2, z, axis=2)
    shades = np.minimum(gains[:, None] * color, 255)
    scene.fill_flat(scene.camera.project(rims), scene.inks(shades, z, "vegetation"))


def tree(scene: Scene, x: Real, z: Real) -> None:
    """A street tree; its trunk is vegetation too, as in Cityscapes."""
    height = float(scene.rng.uniform(4.5, 8.5))
    color = scene.pick(scene.look.foliage)
    trunk = [(-0.16, 0.0), (0.16, 0.0), (0.1, height * 0.7), (-0.1, height * 0.7)]
    scene.board(x, z, trunk, tone((78, 62, 50), scene.rng), "vegetation")
    crown(scene, x, height * 0.75, z, (height * 0.36, height * 0.42), color)
    side = -scene.look.sun * 3.0
    spot = [(x - 1.6 + side, z - 1), (x + 1.6 + side, z - 1), (x + 1 + side, z + 2), (x, z + 2)]
    scene.shadow(spot, 0.55 if scene.look.sun else 0.2)


def hedge(scene: Scene, x: Real, z: Real, width: Real = 2.2, height: Real = 1.3) -> None:
    """A bush."""
    color = shade(scene.pick(scene.look.foliage), 0.85)
    crown(scene, x, height * 0.5, z, (width / 2, height * 0.6), color)


# ---------------------------------------------------------------------------------- furniture


def post(scene: Scene, x: Real, z: Real, height: Real, label: str = "pole") -> None:
    """An upright pole."""
    metal = tone((104, 106, 106), scene.rng, 12)
    scene.rod(np.array([(x, 0, z), (x, height, z)]), 0.13, metal, label)


def lamp(scene: Scene, side: int, x: Real, z: Real) -> None:
    """A street lamp whose arm reaches over the road."""
    post(scene, x, z, 6.5)
    arm = np.array([(x, 6.5, z), (x - side * 1.6, 6.9, z)])
    scene.rod(arm, 0.12, (104, 106, 106), "pole")
    scene.disc(x - side * 1.6, 6.85, z, (0.4, 0.14), (214, 212, 190), "pole")


def traffic_light(scene: Scene, x: Real, z: Real) -> None:
    """A signal on a pole, one of its three lamps on."""
    post(scene, x, z, 3.0)
    housing = [(-0.24, 2.5), (0.24, 2.5), (0.24, 3.7), (-0.24, 3.7)]
    scene.board(x, z, housing, (36, 38, 38), "traffic light")
    on = int(scene.rng.integers(3))
    for place, color in enumerate(((232, 48, 40), (240, 170, 40), (50, 214, 120))):
        glow = shade(color, 1.0 if place == on else 0.3)
        scene.disc(x, 3.48 - 0.37 * place, z, (0.14, 0.15), glow, "traffic light")


def sign(scene: Scene, x: Real, z: Real) -> None:
    """A traffic sign: disc, triangle or panel."""
    post(scene, x, z, 2.4)
    kind = int(scene.rng.integers(4))
    if kind == 0:
        scene.disc(x, 2.6, z, (0.42, 0.42), (204, 38, 40), "traffic sign")
        scene.disc(x, 2.6, z, (0.29, 0.29), (236, 236, 232), "traffic sign")
    elif kind == 1:
        triangle = [(-0.5, 2.2), (0.5, 2.2), (0.0, 3.1)]
        scene.board(x, z, triangle, (206, 44, 40), "traffic sign")
        inner = [(-0.26, 2.34), (0.26, 2.34), (0.0, 2.82)]
        scene.board(x, z, inner, (240, 236, 220), "traffic sign")
    else:
        width, color = (0.4, (38, 84, 172)) if kind == 2 else (0.8, (232, 190, 50))
        panel = [(-width, 2.2), (width, 2.2), (width, 2.95), (-width, 2.95)]
        scene.board(x, z, panel, color, "traffic sign")
        bar = [(-width * 0.6, 2.5), (width * 0.6, 2.5), (width * 0.6, 2.65), (-width * 0.6, 2.65)]
        scene.board(x, z, bar, (240, 240, 236), "traffic sign")


def pole_group(scene: Scene, x: Real, z: Real) -> None:
    """Poles too close to be told apart: an id that is not scored."""
    for dx in (-0.22, 0.0, 0.22):
        post(scene, x + dx, z, 4.2, "polegroup")


def litter_bin(scene: Scene, x: Real, z: Real) -> None:
    """A litter bin: static, not scored."""
    color = tone((70, 84, 72), scene.rng, 16)
    box(scene, x, z, (0.55, 1.0, 0.5), 0, color, "static")


def cart(scene: Scene, x: Real, z: Real) -> None:
    """Something pushed along the pavement: dynamic, not scored."""
    color = tone((120, 84, 110), scene.rng, 40)
    scene.board(x, z, [(-0.4, 0.4), (0.35, 0.4), (0.5, 0.95), (-0.3, 0.9)], color, "dynamic")
    for dx in (-0.28, 0.3):
        scene.disc(x + dx, 0.18, z, (0.18, 0.18), (40, 40, 42), "dynamic")


# ---------------------------------------------------------------------------------- people, cycles

CLOTHES: Final = (
    (44, 50, 66), (120, 40, 44), (64, 88, 66), (150, 140, 124),
    (52, 52, 54), (66, 92, 140), (188, 184, 176), (168, 120, 60),
)  # fmt: skip
SKIN: Final = ((226, 184, 154), (188, 136, 104), (120, 82, 62))
HAIR: Final = ((44, 34, 30), (92, 66, 44), (150, 120, 80), (120, 116, 112))


def person(scene: Scene, x: Real, z: Real) -> None:
    """Someone standing or walking."""
    tall = float(scene.rng.uniform(1.55, 1.9))
    stride = float(scene.rng.uniform(0.03, 0.3))
    coat, trousers = scene.pick(CLOTHES), shade(scene.pick(CLOTHES), 0.7)
    for foot, gain in ((-stride, 0.85), (stride, 1.0)):
        leg = [(foot - 0.09, 0), (foot + 0.1, 0), (0.15, tall * 0.5), (-0.13, tall * 0.5)]
        scene.board(x, z, leg, shade(trousers, gain), "person")
    torso(scene, x, z, tall, coat, "person")
    side = -scene.look.sun
    cast = [(x - 0.2, z), (x + 0.2, z), (x + 0.2 + side, z + 0.6), (x - 0.2 + side, z + 0.6)]
    scene.shadow(cast, 0.7 if scene.look.sun else 0.3)


def torso(
    scene: Scene, x: Real, z: Real, tall: Real, coat: Color, label: str, lean: Real = 0.0
) -> None:
    """Trunk, arms and head, of someone `tall` metres high."""
    hip, neck = tall * 0.46, tall * 0.84
    trunk = [(-0.2, hip), (0.2, hip), (0.25 + lean, neck), (-0.25 + lean, neck)]
    for hand in (-0.36, 0.36):
        arm = [(hand + lean, hip), (hand * 0.8 + lean, hip), (lean + hand * 0.5, neck)]
        scene.board(x, z, [*arm, (lean + hand * 0.7, neck)], shade(coat, 0.78), label)
    scene.board(x, z, trunk, coat, label)
    head = (x + 1.25 * lean, tall * 0.925)
    radius = (0.11, 0.15)
    scene.disc(*head, z, radius, scene.pick(SKIN), label)
    scene.disc(head[0], head[1] + 0.06, z, (0.115, 0.1), scene.pick(HAIR), label)


def cycle(scene: Scene, x: Real, z: Real, label: str, ridden: bool) -> None:
    """A bicycle or motorcycle in half profile, with or without its rider."""
    heavy = label == "motorcycle"
    color = tone((150, 40, 40), scene.rng, 50) if heavy else tone((60, 70, 90), scene.rng, 40)
    wheel, base = (0.33, 0.62) if heavy else (0.34, 0.52)
    for dx in (-base, base):
        scene.disc(x + dx, wheel, z, (wheel * 0.8, wheel), (34, 34, 36), label)
        hub = 0.5 if heavy else 0.78
        spokes = shade(scene.look.road, 0.85) if not heavy else (120, 122, 126)
        scene.disc(x + dx, wheel, z, (wheel * 0.8 * hub, wheel * hub), spokes, label)
    if heavy:
        body = [(-0.75, 0.5), (-0.2, 0.3), (0.4, 0.35), (0.7, 0.75), (0.35, 1.05), (-0.7, 0.85)]
        scene.board(x, z, body, color, label)
        seat = [(-0.7, 0.85), (0.1, 0.8), (0.05, 0.95), (-0.75, 1.0)]
        scene.board(x, z, seat, (30, 30, 32), label)
        scene.disc(x + 0.62, 0.95, z, (0.12, 0.12), (244, 236, 200), label)
    else:
        frame = [(-base, wheel), (-0.15, 0.85), (0.4, 0.9), (0.0, wheel), (-0.15, 0.85)]
        path = np.array([(x + dx, y, z) for dx, y in frame])
        scene.rod(path, 0.08, color, label)
        fork = np.array([(x + dx, y, z) for dx, y in ((base, wheel), (0.4, 1.05), (0.3, 1.05))])
        scene.rod(fork, 0.07, color, label)
    if ridden:
        rider(scene, x, z)
    left, right, near, far = x - 0.8, x + 0.8, z - 0.1, z + 0.4
    scene.shadow([(left, near), (right, near), (right, far), (left, far)], 0.6)


def rider(scene: Scene, x: Real, z: Real) -> None:
    """Someone on a cycle: bent knee, leaning trunk, helmet or hair."""
    trousers = shade(scene.pick(CLOTHES), 0.7)
    thigh = [(-0.25, 0.85), (-0.1, 1.05), (0.25, 0.75), (0.15, 0.6)]
    shin = [(0.1, 0.75), (0.26, 0.75), (0.1, 0.25), (-0.05, 0.25)]
    scene.board(x, z, shin, trousers, "rider")
    scene.board(x, z, thigh, shade(trousers, 1.1), "rider")
    torso(scene, x - 0.1, z, 1.85, scene.pick(CLOTHES), "rider", lean=0.22)
    if scene.chance(0.6):
        helmet = tone((200, 200, 200), scene.rng, 50)
        scene.disc(x + 0.17, 1.79, z, (0.14, 0.12), helmet, "rider")


# ---------------------------------------------------------------------------------- vehicles

PAINT: Final = (
    (36, 38, 42), (150, 152, 156), (206, 206, 204), (124, 34, 36),
    (44, 66, 116), (90, 92, 90), (70, 84, 74), (178, 150, 100),
)  # fmt: skip
GLASS: Final = (44, 52, 60)


def footprint(scene: Scene, x: Real, z: Real, width: Real, length: Real) -> None:
    """The contact shadow of a vehicle, longer away from the sun."""
    left, right = x - width / 2 - 0.15, x + width / 2 + 0.15
    left, right = left - (scene.look.sun > 0), right + (scene.look.sun < 0)
    scene.shadow([(left, z - 0.3), (right, z - 0.3), (right, z + length), (left, z + length)], 0.95)


def wheels(scene: Scene, side: Face, places: tuple[Real, ...], radius: Real, label: str) -> None:
    """Wheels on a vehicle's visible side, at metres from its near end."""
    center = np.array(side.origin) * (1, 0, 1) + (0, radius, 0)
    for place in places:
        # the circle, turned into the side's plane
        rim = CIRCLE[:, [2, 1, 0]] * radius
        scene.fill(center + rim + (0, 0, place), (28, 28, 30), label)
        scene.fill(center + 0.5 * rim + (0, 0, place), (130, 132, 134), label)


def lamps(scene: Scene, near: Face, row: Real, label: str, oncoming: bool) -> None:
    """Head or tail lamps on the near face, and the number plate."""
    color = (248, 244, 222) if oncoming else (196, 30, 28)
    ends = np.array([[0.04, 0.2, row, row + 0.2], [0.8, 0.96, row, row + 0.2]])
    scene.fill(near.panels(ends), color, label)
    plate = np.array([[0.37, 0.63, row - 0.14, row - 0.02]])
    scene.fill(near.panels(plate), (224, 222, 206), label)


def car(scene: Scene, x: Real, z: Real, oncoming: bool) -> None:
    """A car seen from behind or in front."""
    color = scene.pick(PAINT)
    length = float(scene.rng.uniform(3.8, 4.6))
    footprint(scene, x, z, 1.8, length)
    box(scene, x, z + 0.1, (1.6, 0.5, length - 0.2), 0, (26, 26, 28), "car")
    cabin(scene, x, z, length, color)
    side, near = box(scene, x, z, (1.8, 0.65, length), 0.3, color, "car")
    wheels(scene, side, (0.8, length - 0.8), 0.33, "car")
    lamps(scene, near, 0.5, "car", oncoming)


def cabin(scene: Scene, x: Real, z: Real, length: Real, color: Color) -> None:
    """Roof and glass of a car: a prism narrower at the top."""
    y0, y1, near, far = 0.95, 1.5, z + 0.35, z + length * 0.72
    inner = -1 if x > scene.camera.x_m else 1
    low, high = x + inner * 0.86, x + inner * 0.64
    profile = [(low, y0, near), (low, y0, far), (high, y1, far - 0.7), (high, y1, near + 0.4)]
    back = [(x + dx, y, near) for dx, y in ((-0.86, y0), (0.86, y0), (0.64, y1), (-0.64, y1))]
    for outline, gain in ((np.array(profile), 0.9), (np.array(back), 1.0)):
        scene.fill(outline, shade(color, gain), "car")
        center = outline.mean(0)
        scene.fill(center + 0.8 * (outline - center), shade(GLASS, gain), "car")


def bus(scene: Scene, x: Real, z: Real, oncoming: bool) -> None:
    """A city bus: a tall block with a band of windows."""
    color = scene.pick(((196, 60, 48), (226, 186, 60), (70, 120, 80)))
    footprint(scene, x, z, 2.5, 11)
    box(scene, x, z + 0.1, (2.3, 0.5, 10.8), 0, (26, 26, 28), "bus")
    side, near = box(scene, x, z, (2.55, 2.75, 11), 0.3, color, "bus")
    scene.fill(side.panels(grid(7, 1, (0.86, 0.4), lift=0.15)), GLASS, "bus")
    scene.fill(near.panels(np.array([[0.07, 0.93, 0.4, 0.82]])), GLASS, "bus")
    scene.fill(near.panels(np.array([[0.2, 0.8, 0.86, 0.96]])), (250, 180, 60), "bus")
    scene.fill(near.panels(np.array([[0, 1, 0.26, 0.32]])), shade(color, 1.4), "bus")
    wheels(scene, side, (1.8, 8.6), 0.48, "bus")
    lamps(scene, near, 0.08, "bus", oncoming)


def truck(scene: Scene, x: Real, z: Real, oncoming: bool) -> None:
    """A box truck: doors from behind, a driver's cab from in front."""
    cargo = scene.pick(((216, 216, 212), (120, 138, 160), (196, 170, 120)))
    cab = scene.pick(PAINT)
    footprint(scene, x, z, 2.4, 8)
    box(scene, x, z + 0.2, (2.1, 0.9, 7.6), 0, (34, 34, 36), "truck")
    start = z + 2.0 if oncoming else z
    side, near = box(scene, x, start, (2.5, 2.6, 6), 0.9, cargo, "truck")
    scene.fill(near.panels(grid(2, 1, (0.9, 0.94))), shade(cargo, 0.93), "truck")
    wheels(scene, side, (1.0, 2.1, 5.2), 0.5, "truck")
    if oncoming:
        side, near = box(scene, x, z, (2.3, 2.2, 1.9), 0.5, cab, "truck")
        scene.fill(near.panels(np.array([[0.08, 0.92, 0.5, 0.9]])), GLASS, "truck")
        scene.fill(side.panels(np.array([[0.1, 0.8, 0.5, 0.9]])), GLASS, "truck")
        lamps(scene, near, 0.16, "truck", oncoming)
    else:
        box(scene, x, z, (2.3, 0.3, 0.1), 0.55, (180, 40, 36), "truck")


def train(scene: Scene, x: Real, z: Real) -> None:
    """A tram on its track: long, two-coloured, with a current collector."""
    color = scene.pick(((226, 222, 210), (200, 60, 50), (84, 130, 150)))
    footprint(scene, x, z, 2.6, 30)
    wire = np.array([(x, 3.4, z + 5), (x - 0.5, 4.3, z + 5.6), (x, 4.9, z + 5)])
    scene.rod(wire, 0.1, (60, 60, 62), "train")
    side, near = box(scene, x, z, (2.6, 3.3, 30), 0.2, color, "train")
    lower = shade(color, 0.55)
    for face in (side, near):
        scene.fill(face.panels(np.array([[0, 1, 0, 0.3]])), lower, "train")
    scene.fill(side.panels(grid(14, 1, (0.8, 0.36), lift=0.12)), GLASS, "train")
    scene.fill(near.panels(np.array([[0.12, 0.88, 0.42, 0.84]])), GLASS, "train")
    scene.fill(near.panels(np.array([[0.3, 0.7, 0.88, 0.97]])), (252, 190, 70), "train")
    scene.disc(x, 0.85, z, (0.16, 0.14), (250, 246, 226), "train")


def camper(scene: Scene, x: Real, z: Real, label: str) -> None:
    """A parked caravan or trailer: ids that are not scored."""
    footprint(scene, x, z, 2.1, 5)
    height = 2.1 if label == "caravan" else 0.9
    side, near = box(scene, x, z, (2.1, height, 4.6), 0.45, tone((222, 220, 212), scene.rng), label)
    if label == "caravan":
        scene.fill(near.panels(np.array([[0.2, 0.8, 0.5, 0.85]])), GLASS, label)
    wheels(scene, side, (2.3,), 0.33, label)


# ---------------------------------------------------------------------------------- ground


def strip(
    scene: Scene, x: tuple[Real, Real], z: tuple[Real, Real], color: Color, label: str
) -> None:
    """Ground between two lines along the street; its haze comes with the light."""
    depth = np.geomspace(z[0], z[1], 14)
    left, right = (np.stack([np.full(14, edge), np.zeros(14), depth], -1) for edge in x)
    shape = scene.camera.project(np.concatenate([left, right[::-1]]))
    scene.fill_flat(shape[None], [(*color, ID[label])])


@dataclass(frozen=True)
class CrossSection:
    """The street's cross-section: metres from its centre line."""

    road: Real
    parking: Real
    sidewalk: Real
    front: Real
    """Where the houses begin."""

    @classmethod
    def of(cls, look: Look) -> "CrossSection":
        """Add up a look's widths."""
        parking = look.road_m + (2.3 if look.parking else 0.0)
        sidewalk = parking + look.sidewalk_m
        return cls(look.road_m, parking, sidewalk, sidewalk + look.verge_m)


def paint_ground(scene: Scene, section: CrossSection, crossing_m: Real | None, track: bool) -> None:
    """Lawn, pavements, parking, road and what is painted on it."""
    look, reach = scene.look, (NEAR_M, FAR_M)
    strip(scene, (-900.0, 900.0), reach, tone(look.grass, scene.rng), "terrain")
    for side in (-1, 1):
        paved = tone(look.sidewalk, scene.rng)
        strip(scene, (side * section.parking, side * section.sidewalk), reach, paved, "sidewalk")
        curb = side * section.parking
        strip(scene, (side * section.road, curb), reach, (112, 106, 106), "parking")
        strip(scene, (curb, curb + side * 0.22), reach, shade(paved, 1.2), "sidewalk")
    road = tone(look.road, scene.rng)
    strip(scene, (-section.road, section.road), reach, road, "road")
    if crossing_m is not None:
        paint_crossing(scene, section, crossing_m, road)
    paint_marks(scene, section, road)
    if track:
        paint_track(scene, -section.road / 2)


def paint_crossing(scene: Scene, section: CrossSection, z: Real, road: Color) -> None:
    """A side street, and a zebra in front of it."""
    strip(scene, (-90.0, 90.0), (z, z + 8), road, "road")
    if scene.look.cobbles:
        return
    for left in np.arange(-section.road + 0.3, section.road - 0.5, 1.1):
        strip(scene, (left, left + 0.55), (z - 4, z - 1.2), shade(road, 2.0), "road")


def paint_marks(scene: Scene, section: CrossSection, road: Color) -> None:
    """Lane marks, patches, manholes: all of them road."""
    white = shade(road, 1.9)
    for z in np.arange(2.0, 70.0, 6.0) if not scene.look.cobbles else ():
        strip(scene, (-0.07, 0.07), (z, z + 3), white, "road")
    for side in (-1, 1):
        edge = side * (section.road - 0.35)
        strip(scene, (edge, edge + 0.12), (NEAR_M, FAR_M), shade(white, 0.85), "road")
    for _ in range(3):
        x, z = scene.rng.uniform(-section.road, section.road - 1.6), scene.rng.uniform(4, 26)
        patch = shade(road, scene.rng.uniform(0.75, 1.15))
        strip(scene, (x, x + 1.5), (z, z + scene.rng.uniform(1, 5)), patch, "road")


def paint_track(scene: Scene, x: Real) -> None:
    """A tram track set in its own bed."""
    bed = tone((126, 112, 100), scene.rng)
    strip(scene, (x - 1.3, x + 1.3), (NEAR_M, FAR_M), bed, "rail track")
    for rail in (-0.72, 0.72):
        edges = x + rail - 0.07, x + rail + 0.07
        strip(scene, edges, (NEAR_M, FAR_M), (190, 190, 192), "rail track")


def paint_sky(scene: Scene) -> None:
    """A gradient from zenith to horizon, and below it the ground's far end."""
    rows = np.linspace(0, 1 / scene.camera.horizon, len(scene.raster)).clip(0, 1)[:, None] ** 1.3
    zenith, horizon = np.array(scene.look.sky)
    scene.raster[..., :3] = (zenith * (1 - rows) + horizon * rows)[:, None]
    scene.raster[..., 3] = ID["sky"]


def paint_skyline(scene: Scene) -> None:
    """Distant houses and trees that close the street."""
    for x in np.arange(-230.0, 230.0, 13.0):
        height = scene.rng.uniform(0.7, 1.3) * (3 + 3 * scene.look.storeys[0])
        color = scene.pick(scene.look.facades)
        outline = [(0.0, 0.0), (14.0, 0.0), (14.0, height), (0.0, height)]
        scene.board(x, FAR_M * 0.9, outline, color, "building")
    for x in np.arange(-150.0, 150.0, 8.0):
        if scene.chance(0.25 + scene.look.gap):
            color = scene.pick(scene.look.foliage)
            tall = float(scene.rng.uniform(5, 10))
            crown(scene, float(x), tall * 0.4, FAR_M * 0.7, (6.0, tall * 0.6), color)


# ---------------------------------------------------------------------------------- composition


def compose(scene: Scene, features: set[str], frame_index: int) -> None:
    """Paint a whole frame's raster, back to front."""
    section = CrossSection.of(scene.look)
    crossing_m = float(scene.rng.uniform(24, 40)) if scene.chance(0.5) else None
    paint_sky(scene)
    paint_skyline(scene)
    paint_ground(scene, section, crossing_m, "train" in features)
    barriers = [name for name in ("wall", "fence") if name in features]
    if not barriers and scene.chance(0.15):
        barriers = ["guard rail"]
    sides: dict[int, str | None] = dict(zip((-1, 1), (*barriers, None, None), strict=False))
    if scene.chance(0.5):
        sides = {side: sides[-side] for side in sides}
    for side, name in sides.items():
        place_row(scene, section, side, crossing_m, name)
        place_furniture(scene, section, side)
        place_people(scene, section, side)
    place_traffic(scene, section, features)
    place_rare(scene, section, frame_index, crossing_m)
    scene.draw_props()
    paint_margins(scene)


def place_row(
    scene: Scene, section: CrossSection, side: int, crossing_m: Real | None, name: str | None
) -> None:
    """Houses and gardens along one side; a barrier takes the place of the nearest houses."""
    x, z = side * section.front, 3.0
    if name:
        end = float(scene.rng.uniform(22, 32))
        scene.later(1, 5, partial(barrier, scene, name, x, (3.0, end)))
        for back in np.arange(5.0, end, 5.0):
            place = float(x + side * scene.rng.uniform(2.5, 7)), float(back)
            scene.later(0, back, partial(tree, scene, *place))
        z = end
    while z < 120:
        length = float(scene.rng.uniform(9, 17))
        crossed = crossing_m is not None and z < crossing_m + 8 and z + length > crossing_m
        if crossed and crossing_m is not None:
            length = crossing_m + 8 - z
        elif scene.chance(scene.look.gap):
            place_garden(scene, side, x, z, length)
        else:
            scene.later(0, z, partial(house, scene, side, x, z, length))
        z += length


def place_garden(scene: Scene, side: int, x: Real, z: Real, length: Real) -> None:
    """Trees and bushes between two houses."""
    for back in np.arange(z, z + length, 3.0):
        draw = tree if scene.chance(0.6) else hedge
        place = float(x + side * scene.rng.uniform(1, 6)), float(back)
        scene.later(0, back, partial(draw, scene, *place))


def place_furniture(scene: Scene, section: CrossSection, side: int) -> None:
    """Street trees, lamps, signs and signals along a kerb."""
    kerb = side * (section.parking + 0.6)
    verge = side * (section.sidewalk + max(0.3, 0.5 * scene.look.verge_m))
    for z in np.arange(scene.rng.uniform(8, 20), 90, scene.look.tree_m):
        scene.later(1, z, partial(tree, scene, verge, float(z)))
    for z in np.arange(scene.rng.uniform(10, 22), 90, 22.0):
        scene.later(2, z, partial(lamp, scene, side, kerb, float(z)))
    for draw, nearest, probability in ((sign, 9, 0.9), (traffic_light, 12, 0.6), (sign, 16, 0.6)):
        if scene.chance(probability):
            z = float(nearest + scene.rng.uniform(0, 7))
            scene.later(2, z, partial(draw, scene, kerb, z))
    if scene.look.verge_m > 0 and scene.chance(0.6):
        for z in np.arange(8.0, 40.0, 2.4):
            scene.later(1, z, partial(hedge, scene, side * section.front, float(z)))


def place_people(scene: Scene, section: CrossSection, side: int) -> None:
    """Pedestrians on the pavement, and cycles left at the house fronts."""
    inner, outer = section.parking + 0.9, section.sidewalk - 0.3
    for _ in range(scene.rng.poisson(3.0 * scene.look.bustle) + 1):
        x, z = side * float(scene.rng.uniform(inner, outer)), float(scene.rng.uniform(9, 42))
        scene.later(2, z, partial(person, scene, x, z))
    if scene.chance(0.45):
        z = float(scene.rng.uniform(9, 18))
        x = side * (section.sidewalk - 0.5)
        scene.later(2, z, partial(cycle, scene, x, z, "bicycle", False))


def place_traffic(scene: Scene, section: CrossSection, features: set[str]) -> None:
    """Vehicles in both lanes, at the kerbs, and cyclists."""
    lane = section.road / 2
    ahead, oncoming = float(scene.rng.uniform(13, 19)), float(scene.rng.uniform(14, 22))
    if "train" in features:
        scene.later(2, oncoming, partial(train, scene, -lane, oncoming))
    if "bus" in features:
        scene.later(2, ahead, partial(bus, scene, lane, ahead, False))
    if "truck" in features:
        free_lane = "train" in features or ("bus" not in features and scene.chance(0.5))
        x, z = (lane, ahead + 2) if free_lane else (-lane, oncoming)
        scene.later(2, z, partial(truck, scene, x, z, not free_lane))
    for x, start, facing in ((lane, ahead + 14, False), (-lane, oncoming + 12, True)):
        if facing and "train" in features:
            continue
        queue(scene, x, start if features & {"bus", "truck"} else start - 12, facing)
    cycles = ["bicycle"] if scene.chance(0.8) else []
    cycles += ["motorcycle"] if "motorcycle" in features else []
    edge = float(scene.rng.choice([-1, 1])) * (section.road - 0.9)
    for label, x in zip(cycles, (edge, -edge), strict=False):
        z = float(scene.rng.uniform(8, 15))
        scene.later(2, z, partial(cycle, scene, x, z, label, True))


def queue(scene: Scene, x: Real, z: Real, oncoming: bool) -> None:
    """Cars one behind the other in a lane, and parked where the street allows it."""
    while z < 75:
        if scene.chance(0.6 * min(1.4, scene.look.bustle)):
            scene.later(2, z, partial(car, scene, x, z, oncoming))
        z += float(scene.rng.uniform(9, 16))
    if scene.look.parking:
        kerb = float(np.sign(x)) * (scene.look.road_m + 1.2)
        for place in np.arange(scene.rng.uniform(7, 12), 60, 6.2):
            if scene.chance(0.7):
                scene.later(2, place, partial(car, scene, kerb, float(place), oncoming))


def place_rare(
    scene: Scene, section: CrossSection, frame_index: int, crossing_m: Real | None
) -> None:
    """Things whose label ids are not scored, dealt out by the frame's number."""
    side = 1 if frame_index % 2 else -1
    x, z = side * (section.sidewalk - 0.6), float(scene.rng.uniform(9, 15))
    kind = frame_index % 5
    if kind < 3:
        draw = (litter_bin, cart, pole_group)[kind]
        scene.later(2, z, partial(draw, scene, x, z))
    else:
        label = ("caravan", "trailer")[kind - 3]
        beyond = side * (section.front + 3.0)
        scene.later(1, 16.0, partial(camper, scene, beyond, 16.0, label))
    if frame_index % 4 == 3:
        scene.later(0, 0.0, partial(bridge, scene, float(scene.rng.uniform(45, 70))))


def bridge(scene: Scene, z: Real) -> None:
    """A bridge over the street: not scored."""
    color = tone((140, 132, 124), scene.rng)
    for x in (-34.0, 34.0):
        box(scene, x, z, (3, 7, 6), 0, color, "bridge")
    for top, gain in ((8.2, 1.0), (6.5, 0.6)):
        slab = [(-120, 6.0), (120, 6.0), (120, top), (-120, top)]
        scene.board(0, z, slab, shade(color, gain), "bridge")


def paint_margins(scene: Scene) -> None:
    """The car's own bonnet and the frame's invalid edges, as every Cityscapes frame has them."""
    angle = np.arange(0, 2 * np.pi, np.pi / 40)
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    for size, gain in ((1.0, 1.0), (0.93, 1.3), (0.8, 0.85)):
        outline = circle * (0.92 * size, 0.15 * size) + (1, 1.07)
        color = shade((52, 55, 60), gain)
        scene.fill_flat(outline[None], [(*color, ID["ego vehicle"])])
    edge = max(SUPERSAMPLING, len(scene.raster) // 200)
    scene.raster[:, :edge] = scene.raster[:, -edge:] = (0, 0, 0, ID["out of roi"])
    scene.raster[:edge] = (0, 0, 0, ID["rectification border"])


# ---------------------------------------------------------------------------------- light

GRAIN: Final = np.full(256, 0.05, np.float32)
"""Relative contrast of the texture of each label id."""
for _name, _grain in {"vegetation": 0.26, "terrain": 0.15, "sidewalk": 0.08, "sky": 0}.items():
    GRAIN[ID[_name]] = _grain
GROUND: Final = np.isin(
    np.arange(256),
    [ID[name] for name in ("road", "sidewalk", "parking", "rail track", "terrain", "ground")],
)
"""Which label ids lie flat: they take shadows, relief and haze by their row."""


def clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Plane:
    """Smooth unit noise, about `cells` bumps high and twice as many wide."""
    coarse = rng.standard_normal((cells + 1, 2 * cells + 1)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def relief(scene: Scene, shape: tuple[int, int]) -> Plane:
    """Texture of the ground in perspective, around 0: stains, and cobbles where a city has them."""
    height, width = shape
    row, column = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / height
    camera = scene.camera
    z = camera.depth_of_row(row)[:, None]
    x = (column[None] - camera.center) / camera.focal * z + camera.x_m - camera.bend * z**2
    tile = scene.rng.normal(0, 0.04, (256, 256)).astype(np.float32)
    tile += 0.08 * cv2.GaussianBlur(tile * 25, (0, 0), 5, borderType=cv2.BORDER_REFLECT)
    if scene.look.cobbles:
        tile[::8] -= 0.12
        tile[:, ::8] -= 0.12
    across = (x * 32 % 255).astype(np.float32)
    ahead = np.broadcast_to(z * 32 % 255, x.shape).astype(np.float32)
    texture = cv2.remap(tile, across, ahead, cv2.INTER_LINEAR)
    return texture * np.exp(-z / 18).astype(np.float32)


def light(scene: Scene, labels: Labels) -> UInt8[np.ndarray, "h w 3"]:
    """Average the raster down and add what acts on the frame as a whole."""
    shape = labels.shape
    averaged = cv2.resize(scene.raster, shape[::-1], interpolation=cv2.INTER_AREA)
    image = averaged[..., :3].astype(np.float32)
    add_ground(scene, image, labels)
    add_clouds(scene, image, labels)
    rng, height = scene.rng, shape[0]
    texture = clouds(rng, shape, 48) + 0.8 * clouds(rng, shape, min(height // 2, 160))
    patches = 0.05 * clouds(rng, shape, 3)
    # in fog even near leaves lose their contrast
    contrast = 0.7 * min(1.0, scene.look.haze_m / 150)
    image *= (1 + GRAIN[labels] * contrast * texture + patches)[..., None]
    gain = np.array(scene.look.light) * rng.uniform(1.02, 1.24) * rng.uniform(0.97, 1.03, 3)
    noise = rng.normal(0, 3.5, shape).astype(np.float32)
    image = image * gain.astype(np.float32) + noise[..., None]
    return image.clip(0, 255).astype(np.uint8)


def add_ground(scene: Scene, image: Light, labels: Labels) -> None:
    """Shadows, relief, reflections and haze on what lies flat; changes `image`."""
    height = len(image)
    flat = GROUND[labels]
    soft = cv2.GaussianBlur(scene.shadows, (0, 0), max(0.6, height / 256)) / np.float32(255)
    dark = 0.5 if scene.look.sun else 0.35
    gain = (1 - dark * soft) * (1 + relief(scene, labels.shape))
    image[flat] *= gain[flat][:, None]
    if scene.look.wet:
        mirror = 2 * round(scene.camera.horizon * height) - np.arange(height)
        # what would mirror the invalid edge mirrors the sky below it
        mirrored = cv2.blur(image[mirror.clip(height // 16, height - 1)], (1, 1 + height // 16))
        road = labels == ID["road"]
        image[road] += scene.look.wet * (mirrored[road] - image[road])
    rows = (np.arange(height) + 0.5) / height
    veil = 1 - np.exp(-scene.camera.depth_of_row(rows) / scene.look.haze_m)
    veil = np.broadcast_to(veil[:, None].astype(np.float32), flat.shape)[flat][:, None]
    image[flat] += veil * (np.array(scene.look.sky[1], np.float32) - image[flat])


def add_clouds(scene: Scene, image: Light, labels: Labels) -> None:
    """White and grey clouds in the sky; changes `image`."""
    sky = labels == ID["sky"]
    cover = clouds(scene.rng, sky.shape, 5) + 0.5 * clouds(scene.rng, sky.shape, 14)
    cover = (cover * 0.5 + scene.look.clouds - 0.3).clip(0, 0.8)[sky][:, None]
    white = np.array(shade(scene.look.sky[1], 1.1), np.float32)
    image[sky] += cover * (white - image[sky])


# ---------------------------------------------------------------------------------- interface


def features_of(city_index: int, frame_index: int, seed: int) -> set[str]:
    """The two rare classes of a frame; frames 0-2, 3-5, ... each deal out all six."""
    block, place = divmod(frame_index, 3)
    order = np.random.default_rng((seed, city_index, block, 1)).permutation(len(RARE))
    return {RARE[i] for i in order[2 * place : 2 * place + 2]}


def render(
    city_index: int, frame_index: int, height: int, seed: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Labels]:
    """Draw one frame: RGB and label ids, `height` pixels high and twice as wide.

    Every draw is a function of (seed, city index, frame index); the height only scales the scene.
    """
    look = look_of(city_index, seed)
    rng = np.random.default_rng((seed, city_index, frame_index))
    camera = Camera(
        horizon=float(rng.uniform(0.40, 0.46)),
        center=float(1 + rng.normal(0, 0.1)),
        focal=float(rng.uniform(1.7, 2.0)),
        x_m=look.road_m * float(rng.uniform(0.3, 0.5)),
        eye_m=float(rng.uniform(1.5, 1.8)),
        bend=float(rng.normal(0, 0.0008)),
    )
    scene = Scene(height, camera, look, rng)
    compose(scene, features_of(city_index, frame_index, seed), frame_index)
    labels = np.ascontiguousarray(scene.raster[::SUPERSAMPLING, ::SUPERSAMPLING, 3])
    return light(scene, labels), labels


def build(root: Path, city: City) -> None:
    """Write the whole data set below `root`, and last the mark that says it is whole.

    The train split has `city.cities` cities of `city.frames_per_city` frames; the val split has
    one city more, of `city.val_frames` frames.
    """
    for index in range(city.cities):
        for frame in range(city.frames_per_city):
            _write_frame(root, "train", index, frame, city)
    for frame in range(city.val_frames):
        _write_frame(root, "val", VAL_CITY, frame, city)
    mark = {"generator": "cityseg.minicity", "version": VERSION, "city": city.model_dump()}
    atomic.write_text(root / SYNTHETIC_MARK, json.dumps(mark, indent=1) + "\n")


def _write_frame(root: Path, split: str, index: int, frame: int, city: City) -> None:
    image, labels = render(index, frame, city.height, city.seed)
    name = NAMES[index]
    for kind, suffix, pixels in (
        ("leftImg8bit", IMAGE_SUFFIX, image),
        ("gtFine", LABEL_SUFFIX, labels),
    ):
        folder = root / kind / split / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}_{frame:06}_000019{suffix}"
        Image.fromarray(pixels).save(path, compress_level=2)


def ensure(city: City, folder: Path | None = None) -> Path:
    """Root of the data set for these settings, built once below `folder` and then reused.

    Args:
        city: what is to be built.
        folder: by default $CITYSEG_CACHE, else the user's cache folder.

    Raises:
        InputError: the folder cannot be written.
    """
    given = folder or os.environ.get("CITYSEG_CACHE") or platformdirs.user_cache_dir("cityseg")
    cache = Path(given).expanduser().resolve()
    settings = json.dumps([VERSION, city.model_dump()], sort_keys=True)
    root = cache / f"minicity-{VERSION}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    if (root / SYNTHETIC_MARK).is_file():
        return root
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{root.name}.lock"):
            _build_whole(root, city)
    except OSError as error:
        raise InputError(
            f"cannot build the embedded city in {cache}",
            got=error.strerror or error,
            remedy="name another folder by CITYSEG_CACHE",
        ) from None
    return root


def _build_whole(root: Path, city: City) -> None:
    """Build beside `root` and rename, unless another process has done so meanwhile."""
    if (root / SYNTHETIC_MARK).is_file():
        return
    log.info("building the embedded city in %s", root)
    temporary = root.with_name(f".{root.name}.tmp")
    for leftover in (temporary, root):
        shutil.rmtree(leftover, ignore_errors=True)
    build(temporary, city)
    temporary.rename(root)
