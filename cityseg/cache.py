"""Frames decoded once: all pixels and labels of a data set in two files that every training maps.

    frames-KEY/images.u8   RGB of all frames, one frame after another
               targets.u8  their labels as train ids
               index.json  names, sizes and places in the files

At full resolution: the random scale of the augmentation starts from there, so that a sample from
the cache is the sample from the PNG files, to the bit. KEY is a hash of all names, sizes and times
of change, so a changed data set is another cache. A folder under its final name is whole. What
reading the frames tells is remembered on the way (cityseg.findings).
"""

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock
import numpy as np
from jaxtyping import UInt8

from cityseg import atomic, findings, parallel
from cityseg.config import Config
from cityseg.data import Frame, cache_folder, image_size, read_frame, resolved
from cityseg.errors import InputError
from cityseg.labels import TRAIN_ID_OF_LABEL_ID

VERSION: Final = 1
"""Of the format; another one is another cache."""

BYTES_A_PIXEL: Final = 4
"""Red, green, blue, label."""

SPARE_BYTES: Final = 256 * 2**20
"""What is left free on the disk."""

Pixels = tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]
"""A frame's image (RGB) and its train ids."""

Reader = Callable[[Frame], Pixels]
"""Reads a frame, from wherever."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a frame lies in the files."""

    start: int
    """Pixels before it."""
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.height * self.width


@dataclass(frozen=True)
class FrameCache:
    """A finished cache: `cache(frame)` is what `data.read_frame(frame)` would return."""

    folder: Path
    places: dict[str, Place]
    """By frame name."""

    def __call__(self, frame: Frame) -> Pixels:
        """A frame's image and labels, as views of the files: what is written to them goes nowhere.

        Raises:
            KeyError: not a frame of this cache.
        """
        place = self.places[frame.name]
        pixels = slice(place.start, place.start + place.pixels)
        image, target = (part[pixels] for part in self._files)
        size = (place.height, place.width)
        return image.reshape(*size, 3), target.reshape(size)

    @functools.cached_property
    def _files(self) -> tuple[UInt8[np.ndarray, "n 3"], UInt8[np.ndarray, " n"]]:
        # copy on write: torch refuses arrays that cannot be written to
        images, targets = (np.memmap(file, np.uint8, "c") for file in _files_of(self.folder))
        return images.view(np.ndarray).reshape(-1, 3), targets.view(np.ndarray)

    def __getstate__(self) -> dict[str, Any]:
        """Each process maps the files for itself; a pickled map would be all the pixels."""
        return {"folder": self.folder, "places": self.places}


def frame_reader(frames: Sequence[Frame], config: Config) -> Reader:
    """What reads these frames: their cache, built if need be, or the PNG files themselves.

    Raises:
        InputError: as `ensure`.
    """
    if config.data.cache == "none":
        return read_frame
    return ensure(frames, config.resources.cache_dir)


def ensure(
    frames: Sequence[Frame], folder: Path | None = None, processes: int | None = None
) -> FrameCache:
    """The cache of these frames; whoever comes first builds it, others wait.

    Args:
        frames: in any order; all whose pixels are wanted.
        folder: of all caches, on a local disk; by default `data.cache_folder()`.
        processes: that decode; by default one a core.

    Raises:
        InputError: a frame that cannot be read, no room on the disk, a folder not to be written to.
    """
    frames = sorted(frames)
    folder = resolved(folder) if folder else cache_folder()
    key = key_of(frames)
    home = folder / f"frames-{key}"
    there = _open(home, key)
    if there:
        return there
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f".frames-{key}.lock"):
            return _open(home, key) or _build(frames, home, key, processes)
    except OSError as error:  # also of the lock
        raise InputError(
            f"cannot write a cache of decoded frames to {folder}",
            got=error.strerror or str(error),
            remedy="give another folder by --cache-dir, or set data.cache=none",
        ) from None


def key_of(frames: Sequence[Frame]) -> str:
    """Hash of what was decoded: names, sizes and times of change of all files, and the format.

    Raises:
        InputError: a file is gone.
    """
    digest = hashlib.sha256(f"{VERSION}\n".encode())
    for frame in frames:
        for path in (frame.image, frame.label):
            try:
                stat = path.stat()
            except OSError as error:
                raise InputError(f"cannot read {path}", got=error.strerror) from None
            digest.update(f"{frame.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def size_bytes(frames: Sequence[Frame]) -> int:
    """What the cache of these frames takes of the disk."""
    return _bytes_of(_places(frames))


def _bytes_of(places: dict[str, Place]) -> int:
    return BYTES_A_PIXEL * sum(place.pixels for place in places.values())


def _open(home: Path, key: str) -> FrameCache | None:
    """The cache in a folder; None if there is none, or what is there is not whole."""
    try:
        index = json.loads((home / "index.json").read_text(encoding="utf-8"))
        places = {name: Place(*place) for name, place in index["places"].items()}
        pixels = sum(place.pixels for place in places.values())
        sizes = [file.stat().st_size for file in _files_of(home)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = index.get("key") == key and sizes == [3 * pixels, pixels]
    return FrameCache(home, places) if whole else None


def _build(frames: Sequence[Frame], home: Path, key: str, processes: int | None) -> FrameCache:
    """Decode all frames into a folder beside `home`, which then takes its name."""
    try:
        places = _places(frames)
    except InputError:  # which may not be the only one
        findings.refuse_broken(findings.examine(frames, processes))
        raise
    _check_room(home.parent, places)
    unfinished = home.with_name(f".{home.name}.unfinished")
    for leftover in (unfinished, home):  # of a killed build; a damaged cache
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir()
    try:
        _fill(frames, places, unfinished, processes)
        rows = {name: [p.start, p.height, p.width] for name, p in places.items()}
        atomic.write_text(unfinished / "index.json", json.dumps({"key": key, "places": rows}))
        unfinished.rename(home)
    except BaseException:  # Ctrl-C, too: what is half built goes, and the error on its way
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    atomic.sync(home.parent)
    return FrameCache(home, places)


def _check_room(folder: Path, places: dict[str, Place]) -> None:
    need = _bytes_of(places)
    log.info("cache: %d frames decoded to %s, %.1f GB", len(places), folder, need / 1e9)
    free = shutil.disk_usage(folder).free
    if free < need + SPARE_BYTES:
        raise InputError(
            f"disk of {folder}, for the cache of decoded frames",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{(need + SPARE_BYTES) / 1e9:.1f} GB",
            remedy="free some, give another folder by --cache-dir, or set data.cache=none",
        )


def _fill(
    frames: Sequence[Frame], places: dict[str, Place], folder: Path, processes: int | None
) -> None:
    pixels = sum(place.pixels for place in places.values())
    for file, channels in zip(_files_of(folder), (3, 1), strict=True):
        with file.open("wb") as empty:
            os.posix_fallocate(empty.fileno(), 0, channels * pixels)  # a full disk shows here
    work = [(frame, places[frame.name], folder) for frame in frames]
    stamps = findings.stamps_of(frames)
    found = list(parallel.each(_decode, work, "decoding", processes))
    findings.remember(frames, found, stamps)
    findings.refuse_broken(found)
    for file in _files_of(folder):
        atomic.sync(file)


def _decode(work: tuple[Frame, Place, Path]) -> findings.Finding:
    """Write one frame into its place. Not through a map: there a full disk kills the process."""
    frame, place, folder = work
    sight = findings.look(frame)
    if sight.image is None or sight.label_ids is None:
        return sight.finding
    image, target = sight.image, TRAIN_ID_OF_LABEL_ID[sight.label_ids]
    if target.shape != (place.height, place.width):
        raise InputError(f"frame {frame.name} changed while it was read")
    for file, pixels in zip(_files_of(folder), (image, target), strict=True):
        with file.open("r+b") as opened:
            opened.seek(place.start * pixels.size // place.pixels)
            opened.write(np.ascontiguousarray(pixels).data)
    return sight.finding


def _places(frames: Sequence[Frame]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    start = 0
    for frame in frames:
        places[frame.name] = place = Place(start, *image_size(frame.image))
        start += place.pixels
    return places


def _files_of(folder: Path) -> tuple[Path, Path]:
    return folder / "images.u8", folder / "targets.u8"
