"""People on foot, and cycles with and without their riders."""

from typing import Final

import numpy as np

from cityseg.minicity.color import Color, Real, shade, tone
from cityseg.minicity.scene import Scene

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
