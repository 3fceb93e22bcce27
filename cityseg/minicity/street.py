"""The street's cross-section, and the ground painted by it: lawn, pavement, road, track."""

from dataclasses import dataclass

import numpy as np

from cityseg.minicity.color import Color, Real, shade, tone
from cityseg.minicity.geometry import FAR_M, NEAR_M
from cityseg.minicity.looks import Look
from cityseg.minicity.scene import ID, Scene


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
