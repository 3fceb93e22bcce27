"""The zip that the Cityscapes server scores: one PNG of label ids a frame, at the frame's size.

The official evaluator looks for `{city}_{sequence}_{frame}*.png` at any depth, and takes exactly
one a frame (cityscapesScripts, `evalPixelLevelSemanticLabeling.getPrediction`).
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from cityseg import atomic
from cityseg.data import read_image
from cityseg.errors import DiskError, InputError
from cityseg.labels import LABEL_ID_OF_TRAIN_ID

SERVER_SIZE: Final = (1024, 2048)
"""Height and width of Cityscapes' frames."""

Predict = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w"]]
"""From an RGB image to train ids."""


def write(path: Path, images: dict[str, Path], predict: Predict) -> set[tuple[int, int]]:
    """Predict every image into a zip, which takes its name once it is whole.

    Args:
        path: the zip.
        images: by the frame's name.
        predict: train ids of one.

    Returns:
        The sizes (height, width) that occur.

    Raises:
        InputError: an image cannot be read, or the path cannot be written to.
        DiskError: the disk is full, or may not be written to.
    """
    sizes: set[tuple[int, int]] = set()
    console = Console(stderr=True)
    shown = track(images.items(), "segmenting", console=console, disable=not console.is_terminal)
    try:
        with (
            atomic.replacing(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,  # PNGs are packed
        ):
            for name, image in shown:
                label_ids = LABEL_ID_OF_TRAIN_ID[predict(read_image(image))]
                sizes.add((label_ids.shape[0], label_ids.shape[1]))
                archive.writestr(f"{name}_labelIds.png", _png(label_ids))
    except DiskError:
        raise
    except OSError as error:
        raise InputError(f"cannot write {path}", got=error.strerror or str(error)) from None
    return sizes


def _png(label_ids: UInt8[np.ndarray, "h w"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(label_ids).save(file, format="PNG")
    return file.getvalue()
