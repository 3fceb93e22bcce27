"""Cars, buses, trucks, trams and campers: blocks with glass, wheels and lamps."""

from typing import Final

import numpy as np

from cityseg.minicity.color import Color, Real, shade, tone
from cityseg.minicity.geometry import CIRCLE, Face, grid
from cityseg.minicity.scene import Scene, box

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
