"""What every frame has behind the street, sky and skyline, and at its margins."""

import numpy as np

from cityseg.minicity.color import shade
from cityseg.minicity.geometry import FAR_M
from cityseg.minicity.plants import crown
from cityseg.minicity.scene import ID, SUPERSAMPLING, Scene


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
