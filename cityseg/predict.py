"""Segmenting pictures: label ids for machines, colours and an overlay for eyes."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cityseg import atomic
from cityseg.data import NAME, read_picture
from cityseg.errors import InputError
from cityseg.labels import COLOR_OF_TRAIN_ID, LABEL_ID_OF_TRAIN_ID

PICTURES: Final = (".png", ".jpg", ".jpeg")
"""Endings, in lower case, of the files of a folder that are segmented."""


@dataclass(frozen=True)
class Outputs:
    """Where the three pictures of each input go.

    In folders of their own, so that the official evaluator, which wants one file a frame below the
    folder it is given, can be given `label_ids`.
    """

    folder: Path

    @property
    def label_ids(self) -> Path:
        """Folder of one-channel PNGs of label ids."""
        return self.folder / "labelIds"

    @property
    def color(self) -> Path:
        """Folder of PNGs in the official colours."""
        return self.folder / "color"

    @property
    def overlay(self) -> Path:
        """Folder of the pictures with the colours over them."""
        return self.folder / "overlay"


def find_pictures(source: Path, outputs: Outputs) -> dict[str, Path]:
    """What to segment, by the name it gets: `source`, or every PNG and JPEG anywhere below it.

    A Cityscapes frame is named `{city}_{sequence}_{frame}`, any other file by its stem. Earlier
    results of the same --out below `source` are left out.

    Raises:
        InputError: nothing there, or two files that would get one name.
    """
    files = _pictures_below(source, outputs) if source.is_dir() else [source]
    if not files or not files[0].exists():
        raise InputError(f"no picture at {source}", expected="a PNG or JPEG, or a folder of them")
    named: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        named[output_name(path)].append(path)
    for name, paths in named.items():
        if len(paths) > 1:
            raise InputError(
                f"{paths[0]} and {paths[1]} would both be written as {name}",
                remedy="rename one, or segment them into different folders",
            )
    return {name: paths[0] for name, paths in named.items()}


def _pictures_below(folder: Path, outputs: Outputs) -> list[Path]:
    ours = {path.resolve() for path in (outputs.label_ids, outputs.color, outputs.overlay)}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in PICTURES and path.is_file() and path.parent.resolve() not in ours
    ]


def output_name(path: Path) -> str:
    """Name of a picture's results: the frame's of a Cityscapes file, else the file's stem."""
    match = NAME.match(path.stem)
    return match[0] if match else path.stem


def segment(
    predict: Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w"]],
    picture: Path,
    name: str,
    outputs: Outputs,
) -> None:
    """Predict one picture's train ids; write its label ids, colours and overlay at its own size.

    Raises:
        InputError: the picture cannot be decoded.
    """
    image = read_picture(picture)
    train_ids = predict(image)
    color = COLOR_OF_TRAIN_ID[train_ids]
    for folder, kind, pixels in (
        (outputs.label_ids, "labelIds", LABEL_ID_OF_TRAIN_ID[train_ids]),
        (outputs.color, "color", color),
        (outputs.overlay, "overlay", overlay(image, color)),
    ):
        with atomic.replacing(folder / f"{name}_{kind}.png") as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")


def overlay(
    image: UInt8[np.ndarray, "h w 3"], color: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The mean of picture and colours."""
    return ((image.astype(np.uint16) + color) // 2).astype(np.uint8)
