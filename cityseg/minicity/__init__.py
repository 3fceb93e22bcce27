"""The embedded data set: deterministic street scenes of invented cities in the Cityscapes layout.

World lengths are metres (x right, y up, z ahead); picture lengths are in units of the frame height.
Colour and label id are the four channels of one raster, so an image and its labels cannot drift
apart; the raster has twice the frame's resolution, and only the colour is averaged down.
"""

from cityseg.minicity.dataset import VERSION, build, ensure, render

__all__ = ["VERSION", "build", "ensure", "render"]
