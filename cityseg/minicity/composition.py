"""What stands where: houses, traffic and people, placed at random and painted back to front."""

from functools import partial

import numpy as np

from cityseg.minicity.backdrop import paint_margins, paint_sky, paint_skyline
from cityseg.minicity.buildings import barrier, bridge, house
from cityseg.minicity.color import Real
from cityseg.minicity.furniture import cart, lamp, litter_bin, pole_group, sign, traffic_light
from cityseg.minicity.people import cycle, person
from cityseg.minicity.plants import hedge, tree
from cityseg.minicity.scene import Scene
from cityseg.minicity.street import CrossSection, paint_ground
from cityseg.minicity.vehicles import bus, camper, car, train, truck


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
