"""What acts on a frame as a whole: shadows, texture, reflections, haze, clouds, grain."""

from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from cityseg.minicity.color import shade
from cityseg.minicity.scene import ID, Scene

Labels = UInt8[np.ndarray, "h w"]
Plane = Float32[np.ndarray, "h w"]
Light = Float32[np.ndarray, "h w 3"]

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
