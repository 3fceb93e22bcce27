"""Frames of a row with their scores and, where they may be shown, small pictures of them."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cityseg.data import index
from cityseg.errors import InputError
from cityseg.labels import COLOR_OF_TRAIN_ID
from cityseg.metrics import intersection_over_union, mean_iou
from study.analysis import RIGHT, Panel, PanelRow, Variant, panel
from study.plots import errors_picture

Licence = Literal["open", "withheld", "embedded"]
"""open: the data set is the project's own. Of others' frames none are in the page unless asked for
(withheld), and a page that holds them must not be passed on (embedded)."""

WIDTHS_PX: Final = (768, 512, 384, 256)
"""Of the pictures, the first with which all of them fit into the budget."""
BUDGET_BYTES: Final = 7_500_000
"""Of all pictures together: 10 MB in the page, where 3 bytes are 4 letters."""
FAR: Final = 2
"""Times the budget that the pictures of a width must be thought to take for it not to be tried."""
LISTED: Final = 60
"""Frames without a kept prediction that are listed by name: the worst."""
GREY_STEP: Final = 8
QUALITY: Final = 80
"""Of photographs, as WebP has it."""


@dataclass(frozen=True)
class Pictures:
    """A frame in small, each as the bytes of a WebP file of one size."""

    width_px: int
    height_px: int
    frame: bytes
    label: bytes
    prediction: bytes
    errors: bytes

    @property
    def by_heading(self) -> dict[str, str]:
        """The four as URLs that hold them, in the order in which they are looked at."""
        return {
            "frame": data_url(self.frame, "webp"),
            "label": data_url(self.label, "webp"),
            "prediction": data_url(self.prediction, "webp"),
            "errors": data_url(self.errors, "webp"),
        }

    @property
    def size(self) -> int:
        """Of all four, in bytes."""
        return len(self.frame) + len(self.label) + len(self.prediction) + len(self.errors)


@dataclass(frozen=True)
class GalleryFrame:
    """One out-of-fold frame and its scores by the best epoch, full-res, 0-1."""

    name: str
    fold: int
    miou: float
    """Of this frame alone; NaN if all of it is ignored."""
    iou: tuple[float, ...]
    """Of each class; NaN: it occurs neither in the label nor in the prediction."""
    is_kept: bool
    """Whether its prediction is on disk."""
    pictures: Pictures | None = None


@dataclass(frozen=True)
class Gallery:
    """What there is to be looked at of one row."""

    frames: tuple[GalleryFrame, ...]
    """Those whose prediction is kept, and the worst of the others; the worst first."""
    scored: int
    """Frames in all."""
    licence: Licence
    why_no_pictures: str
    """In a sentence; empty where there are some."""

    @property
    def folds(self) -> list[int]:
        """That these frames stand in."""
        return sorted({frame.fold for frame in self.frames})

    @property
    def classes(self) -> list[int]:
        """Train ids that occur in any of these frames."""
        there = {i for frame in self.frames for i, v in enumerate(frame.iou) if not math.isnan(v)}
        return sorted(there)


def data_url(content: bytes, kind: str) -> str:
    """A picture's bytes as the URL that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def licence_of(variant: Variant, embed_frames: bool) -> Licence:
    """Whether a row's frames may stand in a page that may be passed on."""
    if variant.record.data.kind == "synthetic":
        return "open"
    return "embedded" if embed_frames else "withheld"


def read_panels(variant: Variant) -> tuple[dict[int, Panel], str]:
    """Kept predictions of the finished folds with their frames and labels, by fold.

    The second is why there are none, in a sentence: the data set is gone or not what it was.
    """
    root, panels = variant.record.data.root, {}
    if not root.is_dir():
        return {}, f"The data set is no longer at {root}."
    try:
        frames = {frame.name: frame for frame in index(root, "train")}
        for fold in range(1, variant.folds + 1):
            if record := panel(variant, fold, frames):
                panels[fold] = record
    except InputError as error:
        return {}, f"{str(error).rstrip('.')}."
    return panels, "" if panels else "No prediction is kept yet."


def read_gallery(
    variant: Variant, panels: Mapping[int, Panel], licence: Licence, why_no_pictures: str = ""
) -> Gallery:
    """Scores of a row's frames, with pictures of those in the panels where these may be shown.

    Args:
        variant: the row.
        panels: what can be shown of each fold; none where the data set is gone.
        licence: withheld leaves the pictures out.
        why_no_pictures: in a sentence, where there are no panels.

    Raises:
        InputError: one of the cells' files is damaged.
    """
    frames = [frame for fold in range(1, variant.folds + 1) for frame in _frames(variant, fold)]
    if licence == "withheld":
        panels, why_no_pictures = {}, _withheld(variant)
    rows = [row for one in panels.values() for row in one.rows]
    pictures = thumbnails(rows)
    if len(pictures) < len(rows):
        why_no_pictures = f"Pictures of {len(pictures)} of the {len(rows)} kept frames fit in here."
    shown = [replace(one, pictures=pictures.get(one.name)) for one in _chosen(frames)]
    return Gallery(tuple(shown), len(frames), licence, why_no_pictures)


def _withheld(variant: Variant) -> str:
    return (
        f"The licence of {variant.data_name} may forbid to pass its frames on: they are left out of"
        " this page."
    )


def _frames(variant: Variant, fold: int) -> list[GalleryFrame]:
    there = variant.cells[fold - 1].counts
    if there is None:
        return []
    counts = there.of_frames("best", "full")
    files = variant.cell(fold).predictions.glob("*.png")
    kept = {path.name.removesuffix("_labelIds.png") for path in files}
    return [
        GalleryFrame(name, fold, float(miou), tuple(iou), name in kept)
        for name, miou, iou in zip(
            there.names,
            mean_iou(counts),
            intersection_over_union(counts).tolist(),
            strict=True,
        )
    ]


def _chosen(frames: Sequence[GalleryFrame]) -> list[GalleryFrame]:
    """The kept ones, and the worst of the others; the worst first, those without a score last."""

    def place(frame: GalleryFrame) -> tuple[float, str]:
        return (math.inf if math.isnan(frame.miou) else frame.miou, frame.name)

    others = sorted((frame for frame in frames if not frame.is_kept), key=place)
    return sorted([*(frame for frame in frames if frame.is_kept), *others[:LISTED]], key=place)


def thumbnails(rows: Iterable[PanelRow], budget_bytes: int = BUDGET_BYTES) -> dict[str, Pictures]:
    """Small pictures by the frames' names, as wide as the budget allows.

    Where even the smallest are too many, the last are left out.
    """
    rows, pictures = list(rows), {}
    for width in WIDTHS_PX:
        if width > WIDTHS_PX[-1] and _is_hopeless(rows, width, budget_bytes):
            continue
        pictures = _within(rows, width, budget_bytes)
        if len(pictures) == len(rows):
            break
    return pictures


def _is_hopeless(rows: Sequence[PanelRow], width: int, budget_bytes: int) -> bool:
    """Whether pictures of this width would by far not fit, as the first of them tells."""
    return bool(rows) and _pictures(rows[0], width).size * len(rows) > FAR * budget_bytes


def _within(rows: Sequence[PanelRow], width: int, budget_bytes: int) -> dict[str, Pictures]:
    pictures, left = {}, budget_bytes
    for row in rows:
        one = _pictures(row, width)
        left -= one.size
        if left < 0:
            break
        pictures[row.name] = one
    return pictures


def _pictures(row: PanelRow, width: int) -> Pictures:
    height, there = row.target.shape
    width = min(width, there)
    size = (width, max(1, round(height * width / there)))
    return Pictures(
        *size,
        frame=_photograph(row.image, size),
        label=_map(COLOR_OF_TRAIN_ID[row.target], size),
        prediction=_map(COLOR_OF_TRAIN_ID[row.prediction], size),
        errors=_map(_coarse_errors(row), size),
    )


def _coarse_errors(row: PanelRow) -> UInt8[np.ndarray, "h w 3"]:
    """The errors over the frame in few greys: half the bytes, and red stays red to the pixel.

    A format that loses bits halves the resolution of colours, which smears thin errors away.
    """
    picture, right = errors_picture(row), row.errors == RIGHT
    picture[right] = picture[right] // GREY_STEP * GREY_STEP + GREY_STEP // 2
    return picture


def _photograph(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> bytes:
    return _encode(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), quality=QUALITY)


def _map(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> bytes:
    """The colours of classes are not blended, neither by the size nor by the format."""
    return _encode(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST), lossless=True)


def _encode(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format="WEBP", **options)
    return file.getvalue()
