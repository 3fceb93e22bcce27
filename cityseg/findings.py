"""What reading a frame's two files tells, remembered for as long as the files stay as they are.

    findings/KEY.json   of one split; KEY is a hash of where it lies

A finding holds as long as both files keep their sizes and times of change. Only sound frames are
remembered: what could not be read may be readable the next time. The file may be deleted.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from cityseg import atomic, parallel
from cityseg.data import Frame, cache_folder, read_image, read_label_ids
from cityseg.errors import InputError, counted, first_of
from cityseg.labels import CLASSES

VERSION: Final = 1
"""Of the form, and of what is looked for."""
NAMES_SHOWN: Final = 3
"""Broken files that a message lists before it only counts them."""
SCORED: Final = np.array([label.id for label in CLASSES])
"""Label ids of the 19 classes, in train-id order."""

DAMAGED: Final = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading the file of findings raises if it is not what we wrote."""


@dataclass(frozen=True)
class Finding:
    """What reading one frame tells."""

    broken: tuple[tuple[str, str], ...] = ()
    """Why it cannot be used: a file, and what is wrong with it."""
    pixels: tuple[tuple[int, int], ...] = ()
    """Values of its label map, and how many pixels have each; empty if that cannot be read."""
    digest: str = ""
    """Of the image's pixels, however they are packed; empty if they cannot be read."""

    def histogram(self) -> Int64[np.ndarray, "256"]:
        """Pixels by value of the label map."""
        counts = np.zeros(256, np.int64)
        for value, pixels in self.pixels:
            counts[value] = pixels
        return counts

    def classes(self) -> Bool[np.ndarray, "19"]:
        """Which classes occur."""
        return self.histogram()[SCORED] > 0


@dataclass(frozen=True)
class Sight:
    """A frame as read: what there is to find, and its pixels if it can be used."""

    finding: Finding
    image: UInt8[np.ndarray, "h w 3"] | None = None
    label_ids: UInt8[np.ndarray, "h w"] | None = None


def look(frame: Frame) -> Sight:
    """Read both files of a frame."""
    image, image_broken = _try_read(frame.image, read_image)
    label_ids, label_broken = _try_read(frame.label, read_label_ids)
    broken = image_broken + label_broken
    if image is not None and label_ids is not None and image.shape[:2] != label_ids.shape:
        sizes = f"{_size(label_ids)}, its image {_size(image)}"
        broken += ((str(frame.label), f"has {sizes} pixels"),)
    finding = Finding(broken, _histogram(label_ids), _digest(image))
    return Sight(finding) if broken else Sight(finding, image, label_ids)


def examine(frames: Sequence[Frame], processes: int | None = None) -> list[Finding]:
    """The findings of these frames, in their order; only files that are new or changed are read."""
    known = recall(frames)
    unknown = [frame for frame in frames if known[frame.name] is None]
    stamps = {frame.name: _stamp(frame) for frame in unknown}
    found = list(parallel.each(_find, unknown, "checking", processes))
    if unknown:
        remember(unknown, found, stamps)
    new = {frame.name: finding for frame, finding in zip(unknown, found, strict=True)}
    return [known[frame.name] or new[frame.name] for frame in frames]


def recall(frames: Sequence[Frame]) -> dict[str, Finding | None]:
    """Findings by frame name that were remembered and still hold."""
    stored = _read(_store(frames)) if frames else {}
    return {frame.name: _still_true(stored.get(frame.name), _stamp(frame)) for frame in frames}


def changed(frames: Sequence[Frame]) -> list[Frame]:
    """Those of the frames whose files are not what they were when they were last examined."""
    stored = _read(_store(frames)) if frames else {}
    return [f for f in frames if f.name in stored and stored[f.name].get("stamp") != _stamp(f)]


def remember(
    frames: Sequence[Frame], found: Sequence[Finding], stamps: dict[str, list[int] | None]
) -> None:
    """Keep what was found in sound frames, beside what is known of the split's others.

    Args:
        frames: that were read.
        found: in their order.
        stamps: sizes and times of change from before they were read, by frame name.
    """
    path = _store(frames)
    sound = {
        frame.name: {"stamp": stamps[frame.name], **asdict(finding)}
        for frame, finding in zip(frames, found, strict=True)
        if not finding.broken and stamps[frame.name] is not None
    }
    content = {"version": VERSION, "frames": {**_read(path), **sound}}
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time, no more
        atomic.write_text(path, json.dumps(content))


def stamps_of(frames: Sequence[Frame]) -> dict[str, list[int] | None]:
    """Sizes and times of change of the frames' files, by name; None where a file is gone."""
    return {frame.name: _stamp(frame) for frame in frames}


def refuse_broken(found: Sequence[Finding]) -> None:
    """Refuse frames that cannot be used.

    Raises:
        InputError: the first files by name, and how many more there are.
    """
    broken = [part for finding in found for part in finding.broken]
    if broken:
        told = [f"{file}: {what}" for file, what in broken]
        raise InputError(
            f"cannot use {counted(len(broken), 'file')}: {first_of(told, NAMES_SHOWN)}",
            remedy="list them all with: python -m cityseg verify",
        )


def _find(frame: Frame) -> Finding:
    return look(frame).finding


def _try_read(
    file: Path, read: Callable[[Path], np.ndarray]
) -> tuple[np.ndarray | None, tuple[tuple[str, str], ...]]:
    try:
        return read(file), ()
    except InputError as error:
        what = str(error).removeprefix(f"{file}: ").replace(str(file), "it")
        return None, ((str(file), what),)


def _histogram(label_ids: UInt8[np.ndarray, "h w"] | None) -> tuple[tuple[int, int], ...]:
    if label_ids is None:
        return ()
    counts = np.bincount(label_ids.ravel(), minlength=256)
    return tuple((int(value), int(counts[value])) for value in np.flatnonzero(counts))


def _digest(image: UInt8[np.ndarray, "h w 3"] | None) -> str:
    if image is None:
        return ""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _stamp(frame: Frame) -> list[int] | None:
    try:
        stats = [file.stat() for file in (frame.image, frame.label)]
    except OSError:
        return None
    return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]


def _store(frames: Sequence[Frame]) -> Path:
    split = str(frames[0].image.parents[1].absolute())
    key = hashlib.sha256(split.encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_folder() / "findings" / f"{key}.json"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        frames = content["frames"] if content["version"] == VERSION else {}
        return {name: dict(entry) for name, entry in frames.items()}
    except DAMAGED:
        return {}


def _still_true(entry: dict[str, Any] | None, stamp: list[int] | None) -> Finding | None:
    """A finding as it was written, if it is of the files as they are."""
    if entry is None or stamp is None or entry.get("stamp") != stamp:
        return None
    try:
        pixels = tuple((int(value), int(count)) for value, count in entry["pixels"])
        whole = all(0 <= value < 256 and count > 0 for value, count in pixels)
        digest = entry["digest"]
    except DAMAGED:
        return None
    return Finding((), pixels, digest) if whole and isinstance(digest, str) and digest else None
