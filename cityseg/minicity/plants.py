"""Trees, bushes and the leaves they are made of."""

import numpy as np

from cityseg.minicity.color import Color, Real, shade, tone
from cityseg.minicity.geometry import CIRCLE
from cityseg.minicity.scene import Scene


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
