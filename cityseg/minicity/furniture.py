"""What stands on a pavement: lamps, signals, signs, bins."""

import numpy as np

from cityseg.minicity.color import Real, shade, tone
from cityseg.minicity.scene import Scene, box


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
