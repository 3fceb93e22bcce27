"""A network for other programs: as ONNX, or as an exported program of torch, each proven alike.

What is exported takes RGB pixels of 0-255, of any batch, and any height and width from 64 px, and
does the normalisation itself; it gives logits at the size of the image. It computes in float32.
"""

import contextlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim

from cityseg.errors import InputError, TrainingError
from cityseg.inputs import normalise
from cityseg.model import UNet

FORMATS: Final = (".onnx", ".pt2")
"""Endings of files: ONNX, and `torch.export`."""

SIZES: Final = ((1, 64, 128), (2, 96, 64), (1, 75, 101), (3, 65, 64))
"""Batch, height and width of the images on which an export is compared; the last two are odd."""

SMALLEST_PX: Final = 64
"""Of a side: of less, a part may have one pixel alone, which is a case of its own to exporters."""

TRACED: Final = (2, 64, 96)
"""Batch, height and width of the image that the exporter follows through the network."""

TOLERANCE: Final = 1e-4
"""Largest difference of a logit, as a share of the largest logit, that is taken for rounding."""

ONE_FILE_BYTES: Final = 1_900_000_000
"""Weights beyond this lie in a file beside the ONNX: a protocol buffer has 2 GiB at most."""

Run = Callable[[UInt8[np.ndarray, "b 3 h w"]], Float[np.ndarray, "b 19 h w"]]
"""An exported network."""


class Deployed(nn.Module):
    """A network with its normalisation."""

    def __init__(self, model: UNet):
        super().__init__()
        self.model = model

    def forward(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 19 h w"]:
        """Logits of RGB images of 0-255."""
        return self.model(normalise(image))


@dataclass(frozen=True)
class Parity:
    """How an export compares with its network on one image of noise."""

    size: tuple[int, int, int]
    """Batch, height, width."""
    difference: float
    """Largest difference of a logit, as a share of the largest logit."""
    other_classes: int
    """Pixels whose class differs."""


def export(model: UNet, path: Path) -> list[Parity]:
    """Write a network in the format of the path's ending, and compare what was written with it.

    The file takes its name once it has passed, or the files: weights of nearly 2 GB and more lie
    beside the ONNX, in a file of its name and `.data`.

    Raises:
        InputError: an unknown ending, a package that is not installed, or a network with a part
            that the format cannot express.
        TrainingError: the export does not compute what the network computes.
    """
    if path.suffix not in FORMATS:
        raise InputError("--out", got=str(path), expected=f"a file {' or '.join(FORMATS)}")
    write, read = (_write_onnx, _read_onnx) if path.suffix == ".onnx" else (_write_pt2, _read_pt2)
    network = Deployed(model.cpu().float()).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        with _quiet():
            write(network, draft)
            found = [compare(network, read(draft), size) for size in SIZES]
        check(path, found)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # weights before what names them
            file.replace(path.parent / file.name)
    return found


def compare(network: Deployed, run: Run, size: tuple[int, int, int]) -> Parity:
    """Logits of an export and of its network, on the same noise."""
    batch, height, width = size
    image = np.random.default_rng(size).integers(0, 256, (batch, 3, height, width), np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
    found = run(image)
    if found.shape != expected.shape:
        raise TrainingError(f"the export of {size} gives {found.shape}, not {expected.shape}")
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    return Parity(size, difference, int((found.argmax(1) != expected.argmax(1)).sum()))


def check(path: Path, found: list[Parity]) -> None:
    """Raises TrainingError unless all differences are rounding."""
    for one in found:
        if not one.difference <= TOLERANCE:  # also NaN
            raise TrainingError(
                f"{path} was not written: on {one.size} (batch, height, width) the export differs "
                f"by {one.difference:.2g} of the largest logit, more than {TOLERANCE:g}"
            )


def _traced(network: Deployed) -> torch.export.ExportedProgram:
    batch, height, width = TRACED
    image = torch.zeros(batch, 3, height, width, dtype=torch.uint8)
    side = Dim.DYNAMIC(min=SMALLEST_PX)
    sides = {0: Dim.DYNAMIC(min=1), 2: side, 3: side}
    return torch.export.export(network, (image,), dynamic_shapes=(sides,), strict=False)


def _write_pt2(network: Deployed, path: Path) -> None:
    torch.export.save(_traced(network), path)


def _read_pt2(path: Path) -> Run:
    program = torch.export.load(path).module()

    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(image)).numpy()

    return run


def _write_onnx(network: Deployed, path: Path) -> None:
    _require("onnx", "onnxscript", "onnxruntime")
    traced = _traced(network)
    try:
        program = torch.onnx.export(
            traced, input_names=["image"], output_names=["logits"], dynamo=True, verbose=False
        )
    except torch.onnx.OnnxExporterError:
        raise InputError(
            "a part of this network has no form in ONNX at every size, as model.context=ppm has none",
            remedy="export it as .pt2",
        ) from None
    assert program is not None
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    program.save(path, external_data=weights > ONE_FILE_BYTES)


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(None, {"image": image})[0])


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs {', '.join(missing)}", remedy='pip install "cityseg-study[export]"'
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own warnings, which are about their insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
