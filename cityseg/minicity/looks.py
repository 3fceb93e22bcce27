"""The cities' looks: seven made by hand, the others drawn from their traits."""

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import numpy as np

from cityseg.minicity.color import Color, Real, tone

NAMES: Final = (
    "ashmere", "brightwater", "coldharbor", "dunlow", "elmstead", "fogport",
    "greyhaven", "hollowbrook", "ivorygate", "juniperfield", "kestrelton", "larkhill",
    "mossbank", "northquay", "oldmarket", "pinecrest", "quarrytown", "ravenfell",
    "saltmarsh",
)  # fmt: skip
"""Cities by index. The last one is the `val` split, whatever the number of training cities."""
VAL_CITY: Final = len(NAMES) - 1


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
