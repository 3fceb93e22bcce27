"""Frames drawn and written in the Cityscapes layout, once for each setting."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8
from PIL import Image

from cityseg import atomic
from cityseg.config import City
from cityseg.data import IMAGE_SUFFIX, LABEL_SUFFIX, SYNTHETIC_MARK, cache_folder, resolved
from cityseg.errors import InputError
from cityseg.minicity.composition import compose
from cityseg.minicity.geometry import Camera
from cityseg.minicity.light import Labels, light
from cityseg.minicity.looks import NAMES, VAL_CITY, look_of
from cityseg.minicity.scene import SUPERSAMPLING, Scene

log = logging.getLogger(__name__)

VERSION: Final = 1
"""Raise it with every change that moves a pixel: it names the built folder."""

RARE: Final = ("bus", "truck", "train", "motorcycle", "wall", "fence")
"""Classes that are dealt out, two a frame, so that three frames hold all six."""


def features_of(city_index: int, frame_index: int, seed: int) -> set[str]:
    """The two rare classes of a frame; frames 0-2, 3-5, ... each deal out all six."""
    block, place = divmod(frame_index, 3)
    order = np.random.default_rng((seed, city_index, block, 1)).permutation(len(RARE))
    return {RARE[i] for i in order[2 * place : 2 * place + 2]}


def render(
    city_index: int, frame_index: int, height: int, seed: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Labels]:
    """Draw one frame: RGB and label ids, `height` pixels high and twice as wide.

    Every draw is a function of (seed, city index, frame index); the height only scales the scene.
    """
    look = look_of(city_index, seed)
    rng = np.random.default_rng((seed, city_index, frame_index))
    camera = Camera(
        horizon=float(rng.uniform(0.40, 0.46)),
        center=float(1 + rng.normal(0, 0.1)),
        focal=float(rng.uniform(1.7, 2.0)),
        x_m=look.road_m * float(rng.uniform(0.3, 0.5)),
        eye_m=float(rng.uniform(1.5, 1.8)),
        bend=float(rng.normal(0, 0.0008)),
    )
    scene = Scene(height, camera, look, rng)
    compose(scene, features_of(city_index, frame_index, seed), frame_index)
    labels = np.ascontiguousarray(scene.raster[::SUPERSAMPLING, ::SUPERSAMPLING, 3])
    return light(scene, labels), labels


def build(root: Path, city: City) -> None:
    """Write the whole data set below `root`, and last the mark that says it is whole.

    The train split has `city.cities` cities of `city.frames_per_city` frames; the val split has
    one city more, of `city.val_frames` frames.
    """
    for index in range(city.cities):
        for frame in range(city.frames_per_city):
            _write_frame(root, "train", index, frame, city)
    for frame in range(city.val_frames):
        _write_frame(root, "val", VAL_CITY, frame, city)
    mark = {"generator": "cityseg.minicity", "version": VERSION, "city": city.model_dump()}
    atomic.write_text(root / SYNTHETIC_MARK, json.dumps(mark, indent=1) + "\n")


def _write_frame(root: Path, split: str, index: int, frame: int, city: City) -> None:
    image, labels = render(index, frame, city.height, city.seed)
    name = NAMES[index]
    for kind, suffix, pixels in (
        ("leftImg8bit", IMAGE_SUFFIX, image),
        ("gtFine", LABEL_SUFFIX, labels),
    ):
        folder = root / kind / split / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}_{frame:06}_000019{suffix}"
        Image.fromarray(pixels).save(path, compress_level=2)


def ensure(city: City, folder: Path | None = None) -> Path:
    """Root of the data set for these settings, built once below `folder` and then reused.

    Args:
        city: what is to be built.
        folder: by default $CITYSEG_CACHE, else the user's cache folder.

    Raises:
        InputError: the folder cannot be written.
    """
    cache = resolved(folder) if folder else cache_folder()
    settings = json.dumps([VERSION, city.model_dump()], sort_keys=True)
    root = cache / f"minicity-{VERSION}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    if (root / SYNTHETIC_MARK).is_file():
        return root
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{root.name}.lock"):
            _build_whole(root, city)
    except OSError as error:
        raise InputError(
            f"cannot build the embedded city in {cache}",
            got=error.strerror or error,
            remedy="name another folder by CITYSEG_CACHE",
        ) from None
    return root


def _build_whole(root: Path, city: City) -> None:
    """Build beside `root` and rename, unless another process has done so meanwhile."""
    if (root / SYNTHETIC_MARK).is_file():
        return
    log.info("building the embedded city in %s", root)
    temporary = root.with_name(f".{root.name}.tmp")
    for leftover in (temporary, root):
        shutil.rmtree(leftover, ignore_errors=True)
    build(temporary, city)
    temporary.rename(root)
