"""What one training (a cell of the study's table: one variant on one fold) is on disk.

    config.yaml         the resolved configuration
    epochs.csv          one row for every finished epoch
    last/state.pt       all that is needed to go on; only while the cell is unfinished
    best.safetensors    weights of the best epoch by low-resolution mIoU
    predictions/        label-id PNGs of a few validation frames by the best weights
    confusion.npz       counts a frame, of the best and of the last epoch; written last
    failure.txt         why the cell failed, if it did

A cell is done when confusion.npz is there. Reading this needs no torch.
"""

import csv
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from cityseg import atomic
from cityseg.errors import InputError
from cityseg.labels import NUM_CLASSES

Status = Literal["pending", "unfinished", "failed", "done"]

DAMAGED: Final = (
    OSError, LookupError, ValueError, TypeError, EOFError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise on an archive that is cut short, altered, or no archive at all."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: a row of epochs.csv."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean of the steps' losses (`loss`; by default cross-entropy, nats a pixel), on augmented
    samples."""
    val_loss: float
    """Cross-entropy over all labelled validation pixels at the input size, nats a pixel."""
    miou_low: float
    """Against the resized labels, 0-1."""
    miou_full: float
    """Logits upsampled to each frame's own size, against its own labels, 0-1; NaN for an epoch that
    is not scored so (`evaluate.full_every`)."""
    lr: float
    """Learning rate of this epoch's first step, of all but the encoder."""
    train_s: float
    val_s: float
    images_per_s: float
    """Training samples a second."""


@dataclass(frozen=True)
class Counts:
    """Confusion counts of every validation frame, at one epoch."""

    epoch: int
    low: Int64[np.ndarray, "n 19 19"]
    """At the input size, against resized labels; rows are labels, columns predictions."""
    full: Int64[np.ndarray, "m 19 19"]
    """At each frame's own size; in a finished cell of the same frames, in one that is still trained
    perhaps of none."""


@dataclass(frozen=True)
class Confusion:
    """The result of a finished cell. The best epoch was chosen on the very fold that is scored,
    as the paper does, and so flatters; the last epoch is its honest companion."""

    names: list[str]
    best: Counts
    last: Counts


@dataclass(frozen=True)
class Cell:
    """The folder of one cell: its files, and what they say."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def epochs(self) -> Path:
        """Table of the finished epochs."""
        return self.folder / "epochs.csv"

    @property
    def state(self) -> Path:
        """All that is needed to go on from the last finished epoch."""
        return self.folder / "last" / "state.pt"

    @property
    def best_weights(self) -> Path:
        """Weights of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def predictions(self) -> Path:
        """Folder of label-id PNGs, `{frame name}_labelIds.png`."""
        return self.folder / "predictions"

    @property
    def confusion(self) -> Path:
        """Counts a frame; its presence says that the cell is done."""
        return self.folder / "confusion.npz"

    @property
    def failure(self) -> Path:
        """Why the cell failed."""
        return self.folder / "failure.txt"

    @property
    def lock(self) -> Path:
        """Held by the one process that trains the cell."""
        return self.folder / ".lock"

    def has_epochs(self) -> bool:
        """Whether an epoch was finished; a state is on disk a moment before its row is."""
        return self.epochs.is_file() or self.state.is_file()

    def status(self) -> Status:
        """done, failed, unfinished (at least one epoch is there to go on from), or pending."""
        if self.confusion.is_file():
            return "done"
        if self.failure.is_file():
            return "failed"
        return "unfinished" if self.epochs.is_file() else "pending"


def write_epochs(path: Path, epochs: list[Epoch]) -> None:
    """Replace the table of epochs; floats are written so that they read back to the bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Epoch))
    writer.writerows(astuple(epoch) for epoch in epochs)
    atomic.write_text(path, text.getvalue())


def read_epochs(path: Path) -> list[Epoch]:
    """The finished epochs, oldest first; empty if there is no table yet."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            Epoch(int(row.pop("epoch")), **{k: float(v) for k, v in row.items()}) for row in rows
        ]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a table of epochs", got=str(error)) from None


def write_confusion(path: Path, confusion: Confusion) -> None:
    """Write confusion.npz (compressed; no pickled objects), every count exactly.

    Of a frame's 361 counts two thirds are 0, and few need more than two bytes. So the four tables
    (best low, best full, last low, last full) are one run of the counts that are not 0: how many
    zeros lie before each (`zeros`), and the counts by their bytes (`bytes`, uint8[b, m]: the lowest
    byte of all, then the next). Bytes of one rank are alike, and pack better than whole numbers.

    Raises:
        ValueError: a count is negative, or frames and names differ in number.
    """
    best, last = confusion.best, confusion.last
    tables = np.stack([best.low, best.full, last.low, last.full])
    if tables.min(initial=0) < 0 or tables.shape[1] != len(confusion.names):
        raise ValueError(f"counts below 0, or {len(confusion.names)} names for {tables.shape}")
    at = np.flatnonzero(tables)
    zeros = np.diff(at, prepend=-1) - 1
    arrays = {
        "names": np.array(confusion.names),
        "epochs": np.array([best.epoch, last.epoch]),
        "zeros": zeros.astype(np.min_scalar_type(zeros.max(initial=0))),
        "bytes": _bytes(tables.ravel()[at]),
    }
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _bytes(counts: Int64[np.ndarray, " m"]) -> UInt8[np.ndarray, "b m"]:
    needed = max(1, -(-int(counts.max(initial=0)).bit_length() // 8))
    return counts.astype("<i8").view(np.uint8).reshape(-1, 8).T[:needed]


def read_confusion(path: Path) -> Confusion:
    """Read confusion.npz; also of the form it had first, with each of the four tables whole.

    Raises:
        InputError: the file is damaged or not of this form.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"]]
            if "best_low" in arrays:
                return Confusion(names, *(_whole(arrays, which) for which in ("best", "last")))
            low, full, last_low, last_full = _tables(arrays, len(names))
            best, last = (int(epoch) for epoch in arrays["epochs"])
            return Confusion(names, Counts(best, low, full), Counts(last, last_low, last_full))
    except DAMAGED as error:
        raise InputError(f"{path} is not a table of counts", got=str(error)) from None


def _whole(arrays: Mapping[str, np.ndarray], which: str) -> Counts:
    epoch, low, full = (arrays[f"{which}_{field}"] for field in ("epoch", "low", "full"))
    return Counts(int(epoch), low, full)


def _tables(arrays: Mapping[str, np.ndarray], frames: int) -> Int64[np.ndarray, "4 {frames} 19 19"]:
    """The four tables; an index beyond them is an IndexError."""
    at, parts = np.cumsum(arrays["zeros"].astype(np.int64) + 1) - 1, arrays["bytes"]
    if parts.dtype != np.uint8 or parts.shape[1:] != at.shape:
        raise ValueError(f"{parts.dtype} of shape {parts.shape} for {len(at)} counts")
    counts = np.zeros(len(at), np.int64)
    for rank, part in enumerate(parts):
        counts |= part.astype(np.int64) << (8 * rank)
    tables = np.zeros((4, frames, NUM_CLASSES, NUM_CLASSES), np.int64)
    tables.reshape(-1)[at] = counts
    return tables
