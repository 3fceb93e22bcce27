"""Houses along the street, and what is built in their place: barriers, a bridge."""

import numpy as np

from cityseg.minicity.color import Color, Real, shade, tone
from cityseg.minicity.geometry import Face, grid
from cityseg.minicity.scene import Scene, box


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


def bridge(scene: Scene, z: Real) -> None:
    """A bridge over the street: not scored."""
    color = tone((140, 132, 124), scene.rng)
    for x in (-34.0, 34.0):
        box(scene, x, z, (3, 7, 6), 0, color, "bridge")
    for top, gain in ((8.2, 1.0), (6.5, 0.6)):
        slab = [(-120, 6.0), (120, 6.0), (120, top), (-120, top)]
        scene.board(0, z, slab, shade(color, gain), "bridge")
