"""Checking a data set against the Cityscapes layout: everything that is wrong, at once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cityseg import parallel
from cityseg.data import (
    IMAGE_SUFFIX,
    LABEL_SUFFIX,
    Split,
    city_of,
    read_image,
    read_label_ids,
)
from cityseg.errors import InputError
from cityseg.labels import IGNORE, TRAIN_ID_OF_LABEL_ID, unofficial_ids


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    path: Path
    """The file or folder, relative to the data set's root."""
    what: str


@dataclass(frozen=True)
class Report:
    """What a split holds."""

    split: Split
    counts: dict[str, int]
    """Frames that have both image and label, by city, sorted; sound or not."""
    problems: list[Problem]


@dataclass(frozen=True)
class _Pair:
    root: Path
    image: Path
    label: Path


def verify(root: Path, split: Split, processes: int | None = None) -> Report:
    """Read every file of a split and list all that training or scoring would trip over.

    Checked are file names against city folders, pairs of image and label, image modes, equal
    sizes, label ids against the official table, and that each label map scores some pixel.

    Args:
        root: the data set.
        split: `test` has no public labels: all of Cityscapes' own are ignored there.
        processes: by default one a core where there are frames enough.

    Raises:
        InputError: there is no folder `root`.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}", remedy="give the data set's root by --data")
    images, image_problems = _by_name(root, "leftImg8bit", split, IMAGE_SUFFIX)
    labels, label_problems = _by_name(root, "gtFine", split, LABEL_SUFFIX)
    unpaired = [
        *(Problem(images[name], "has no label") for name in images.keys() - labels.keys()),
        *(Problem(labels[name], "has no image") for name in labels.keys() - images.keys()),
    ]
    names = sorted(images.keys() & labels.keys())
    pairs = [_Pair(root, images[name], labels[name]) for name in names]
    content = parallel.each(_check_pair, pairs, f"checking {split}", processes)
    problems = [
        *image_problems,
        *label_problems,
        *unpaired,
        *(p for found in content for p in found),
    ]
    counts = Counter(images[name].parent.name for name in names)
    return Report(split, dict(sorted(counts.items())), sorted(problems, key=lambda p: p.path))


def _by_name(
    root: Path, kind: str, split: Split, suffix: str
) -> tuple[dict[str, Path], list[Problem]]:
    """Files of one kind by frame name, relative to the root, and those whose name is wrong."""
    folder = root / kind / split
    if not folder.is_dir():
        return {}, [Problem(folder.relative_to(root), "no such folder")]
    # A leftImg8bit folder holds frames alone, gtFine holds other kinds of file as well.
    pattern = "[!.]*" if kind == "leftImg8bit" else "[!.]*_labelIds.png"
    files = [path.relative_to(root) for path in sorted(folder.glob(f"*/{pattern}"))]
    named = {p.name.removesuffix(suffix): p for p in files if _is_named(p, suffix)}
    strays = [
        Problem(p, f"is not named {p.parent.name}_000000_000000{suffix}")
        for p in files
        if not _is_named(p, suffix)
    ]
    empty = [] if named else [Problem(folder.relative_to(root), f"holds no *{suffix}")]
    return named, strays + empty


def _is_named(path: Path, suffix: str) -> bool:
    return (
        path.name.endswith(suffix) and city_of(path.name.removesuffix(suffix)) == path.parent.name
    )


def _check_pair(pair: _Pair) -> list[Problem]:
    image, image_problems = _try_read(pair, pair.image, read_image)
    label_ids, label_problems = _try_read(pair, pair.label, read_label_ids)
    problems = image_problems + label_problems
    if label_ids is not None:
        problems += [Problem(pair.label, what) for what in _check_label_ids(label_ids)]
    if image is not None and label_ids is not None and image.shape[:2] != label_ids.shape:
        sizes = f"{_size(label_ids)}, its image {_size(image)}"
        problems.append(Problem(pair.label, f"has {sizes} pixels"))
    return problems


def _try_read(
    pair: _Pair, path: Path, read: Callable[[Path], np.ndarray]
) -> tuple[np.ndarray | None, list[Problem]]:
    file = pair.root / path
    try:
        return read(file), []
    except InputError as error:
        what = str(error).removeprefix(f"{file}: ").replace(str(file), "it")
        return None, [Problem(path, what)]


def _check_label_ids(label_ids: UInt8[np.ndarray, "h w"]) -> list[str]:
    unknown = unofficial_ids(label_ids)
    wrong = [f"ids {unknown} are not in the official table"] if unknown else []
    if (TRAIN_ID_OF_LABEL_ID[label_ids] == IGNORE).all():
        wrong.append("no pixel is of the 19 scored classes")
    return wrong


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
