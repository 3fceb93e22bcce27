"""Frames on disk in the Cityscapes layout: which there are, and reading one.

Layout: `{root}/{leftImg8bit|gtFine}/{split}/{city}/{city}_{seq}_{frame}_{suffix}.png`.
"""

import hashlib
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import platformdirs
from jaxtyping import UInt8
from PIL import Image, ImageOps

from cityseg.errors import InputError, counted
from cityseg.labels import TRAIN_ID_OF_LABEL_ID

Split = Literal["train", "val", "test"]
Kind = Literal["cityscapes", "synthetic", "other"]

IMAGE_SUFFIX: Final = "_leftImg8bit.png"
LABEL_SUFFIX: Final = "_gtFine_labelIds.png"
NAME: Final = re.compile(r"(?P<city>.+?)_(?P<sequence>\d{6})_(?P<frame>\d{6})")
"""The part of a file name that identifies a frame."""

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PNG_CHANGED: Final = ((16, 2), (16, 4), (16, 6), (2, 0), (4, 0))
"""Bits a channel and colour type (0: grey, 2: RGB, 4 and 6: with alpha; PNG specification, 11.2.2)
of which Pillow drops 8 bits, or which it scales up, labels included, and says nothing of it."""
SIGNATURES: Final = {
    b"\xff\xd8\xff": "a JPEG file", b"GIF8": "a GIF file", b"BM": "a BMP file",
    b"II*\0": "a TIFF file", b"MM\0*": "a TIFF file", b"RIFF": "a WebP file",
    b"version https://git-lfs": "a pointer of Git LFS; run `git lfs pull`",
    b"<": "a web page", b"%!": "a PostScript file", b"%PDF": "a PDF file",
}  # fmt: skip
"""First bytes of what lies about under a name that ends in .png."""

SYNTHETIC_MARK: Final = "SYNTHETIC.json"
"""File in the root of an embedded (generated) data set; its presence marks every table made."""

CITYSCAPES_TRAIN: Final = {
    "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85,
    "dusseldorf": 221, "erfurt": 109, "hamburg": 248, "hanover": 196, "jena": 119,
    "krefeld": 99, "monchengladbach": 94, "strasbourg": 365, "stuttgart": 196,
    "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
}  # fmt: skip
"""Frames a city of Cityscapes' own train split."""


@dataclass(frozen=True, order=True)
class Frame:
    """One labelled frame: where its two files are."""

    name: str
    """`{city}_{sequence}_{frame}`, unique within a data set."""
    city: str
    image: Path
    label: Path


def index(root: Path, split: Split) -> list[Frame]:
    """All labelled frames of a split, sorted by name.

    Raises:
        InputError: no such folder, no frame in it, an image without a label, a label without an
            image, or a frame in the wrong city's folder; all unpaired names are counted.
    """
    images = _by_name(root / "leftImg8bit" / split, IMAGE_SUFFIX)
    labels = _by_name(root / "gtFine" / split, LABEL_SUFFIX)
    unpaired = sorted(images.keys() ^ labels.keys())
    if unpaired:
        missing = "label" if unpaired[0] in images else "image"
        raise InputError(
            f"{root}: {counted(len(unpaired), 'unpaired frame')} in {split}, "
            f"the first {unpaired[0]}",
            got=f"no {missing}",
            expected=f"a {LABEL_SUFFIX[1:]} for every {IMAGE_SUFFIX[1:]}",
            remedy=f"list them all with: python -m cityseg verify --data {root}",
        )
    return [Frame(name, images[name].parent.name, images[name], labels[name]) for name in images]


def index_images(root: Path, split: Split) -> dict[str, Path]:
    """All images of a split by their frames' names, sorted, whether they have labels or not.

    Raises:
        InputError: no such folder, no image in it, or one in the wrong city's folder.
    """
    return _by_name(root / "leftImg8bit" / split, IMAGE_SUFFIX)


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    """Files of one kind by frame name, sorted."""
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}",
            expected="the Cityscapes layout",
            remedy="give its root by --data",
        )
    found = {path.name.removesuffix(suffix): path for path in folder.glob(f"*/[!.]*{suffix}")}
    stray = [path for name, path in found.items() if city_of(name) != path.parent.name]
    if stray:
        raise InputError(
            f"file name {stray[0]}", expected=f"{stray[0].parent.name}_000000_000000{suffix}"
        )
    if not found:
        raise InputError(f"{folder} holds no frame", expected=f"{{city}}/*{suffix}")
    return dict(sorted(found.items()))


def city_of(name: str) -> str | None:
    """City of a frame's name, or None where the name is not of the Cityscapes form."""
    match = NAME.fullmatch(name)
    return match["city"] if match else None


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A frame as RGB, 0-255.

    Raises:
        InputError: the file cannot be decoded or is not 8-bit RGB.
    """
    return _read(path, "RGB")


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header alone.

    Raises:
        InputError: the file is no picture.
    """
    with _decoding(path, "PNG") as image:
        return image.height, image.width


def read_label_ids(path: Path) -> UInt8[np.ndarray, "h w"]:
    """A label map as shipped: label ids.

    Raises:
        InputError: the file cannot be decoded or is not one 8-bit channel.
    """
    return _read(path, "L")


def read_target(path: Path) -> UInt8[np.ndarray, "h w"]:
    """A label map as trained: train ids 0-18, and 255 for every pixel that counts for nothing."""
    return TRAIN_ID_OF_LABEL_ID[read_label_ids(path)]


def read_frame(
    frame: Frame,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """A frame's image, and its label map as train ids.

    Raises:
        InputError: either cannot be read, or their sizes differ.
    """
    image, target = read_image(frame.image), read_target(frame.label)
    if image.shape[:2] != target.shape:
        sizes = ["x".join(map(str, array.shape[:2])) for array in (image, target)]
        raise InputError(
            f"frame {frame.name}", got=f"an image of {sizes[0]} with labels of {sizes[1]} (h x w)"
        )
    return image, target


def read_prediction_ids(path: Path) -> UInt8[np.ndarray, "h w"]:
    """A predicted label map of anybody's, as label ids: one 8-bit channel, or a palette's indices.

    The official evaluator takes both; mmsegmentation writes the latter.

    Raises:
        InputError: the file cannot be decoded or is neither.
    """
    return _read(path, "L", "P")


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of any 8-bit kind as RGB, 0-255, turned upright as its EXIF data say.

    Raises:
        InputError: the file cannot be decoded or is not of 8 bits a channel.
    """
    with _decoding(path, "PNG", "JPEG") as image:
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{path}", got=f"image mode {image.mode}", expected="8 bits a channel")
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _read(path: Path, *modes: str) -> np.ndarray:
    _check_sums(path)
    with _decoding(path, "PNG") as image:
        if image.mode not in modes:
            raise InputError(f"{path}", got=f"image mode {image.mode}", expected=" or ".join(modes))
        return np.array(image)


@contextmanager
def _decoding(path: Path, *formats: str) -> Iterator[Image.Image]:
    """Open a picture of one of these formats; no other decoder ever sees the file."""
    try:
        _check_header(path, *formats)
        with Image.open(path, formats=formats) as image:
            yield image
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError and ValueError on some broken PNG chunks
        raise InputError(f"cannot decode {path}", got=str(error)) from None


def _check_header(path: Path, *formats: str) -> None:
    """Refuse a PNG whose pixels Pillow would quietly turn into others, or fill the memory with."""
    with path.open("rb") as file:
        head = file.read(26)
    if not head.startswith(PNG_SIGNATURE):
        if formats != ("PNG",):
            return
        kind = next((kind for start, kind in SIGNATURES.items() if head.startswith(start)), None)
        raise InputError(f"cannot decode {path}", got=kind or "no picture", expected="a PNG file")
    if len(head) < 26:
        raise InputError(f"cannot decode {path}", got="the beginning of a PNG file, and no more")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if (bits, colour) in PNG_CHANGED:
        raise InputError(f"{path}", got=f"{bits} bits a channel", expected="8")
    if width * height > (Image.MAX_IMAGE_PIXELS or 0):
        raise InputError(f"{path}", got=f"{width}x{height} pixels", expected="a street scene's")


def _check_sums(path: Path) -> None:
    """Refuse a PNG file that is not as it was written: Pillow looks at no checksum of pixels.

    A file whose end a crash left as zeros would be read without complaint, as something else.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError:  # is told when it is opened
        return
    start = len(PNG_SIGNATURE)
    while content[: len(PNG_SIGNATURE)] == PNG_SIGNATURE and start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])
        if end > len(content):
            raise InputError(f"cannot decode {path}", got="a PNG file that is cut short")
        if zlib.crc32(content[start + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]):
            raise InputError(
                f"cannot decode {path}", got="other bytes than were written (a checksum is wrong)"
            )
        if content[start + 4 : start + 8] == b"IEND":
            return
        start = end


def resolve_root(given: Path | None) -> Path | None:
    """The data set's root: as given, else by `CITYSCAPES_DATASET`, else None (embedded city).

    Raises:
        InputError: a path that leads nowhere.
    """
    if given is not None:
        return resolved(given)
    official = os.environ.get("CITYSCAPES_DATASET")
    return resolved(Path(official)) if official else None


def require_root(given: Path | None) -> Path:
    """`resolve_root`, for what does not go with the embedded city.

    Raises:
        InputError: no root is given, or a path that leads nowhere.
    """
    root = resolve_root(given)
    if root is None:
        raise InputError("no data set", remedy="give its root by --data or CITYSCAPES_DATASET")
    return root


def resolved(path: Path) -> Path:
    """The path from the file system's root, links and a leading `~` followed.

    Raises:
        InputError: a link to itself, or the home of nobody.
    """
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"no such path {path}", got=error) from None


def cache_folder() -> Path:
    """Where what is made from data sets is kept: `$CITYSEG_CACHE`, else the user's cache folder.

    Raises:
        InputError: a path that leads nowhere.
    """
    return resolved(Path(os.environ.get("CITYSEG_CACHE") or platformdirs.user_cache_dir("cityseg")))


def kind(root: Path, frames: list[Frame]) -> Kind:
    """What the train split is: generated, Cityscapes' own 2975 frames, or something else."""
    if (root / SYNTHETIC_MARK).is_file():
        return "synthetic"
    counts = Counter(frame.city for frame in frames)
    return "cityscapes" if counts == CITYSCAPES_TRAIN else "other"


def fingerprint(frames: list[Frame]) -> str:
    """Hash of all names and file sizes: changes when frames are added, removed or replaced.

    Content is not read, and the root's place does not count, so a data set may be moved.
    """
    digest = hashlib.sha256()
    for frame in frames:
        try:
            sizes = f"{frame.image.stat().st_size} {frame.label.stat().st_size}"
        except OSError as error:  # such as a link to nothing
            raise InputError(f"cannot read {error.filename}", got=error.strerror) from None
        digest.update(f"{frame.name} {sizes}\n".encode())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Checksum of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
