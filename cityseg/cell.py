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
Choice = Literal["best", "last"]
"""best: by low-res mIoU on the very fold that is scored (the paper's way, it flatters); last: the
last epoch, chosen by nothing."""
Resolution = Literal["low", "full"]
"""low: the network's input size, against resized labels; full: each frame's own size."""

TABLES: Final[tuple[tuple[Choice, Resolution], ...]] = (
    ("best", "low"), ("best", "full"), ("last", "low"), ("last", "full")
)  # fmt: skip
"""Those of confusion.npz, in the order in which they are written."""

DAMAGED: Final = (
    OSError, LookupError, ValueError, TypeError, EOFError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise on an archive that is cut short, altered, or no archive at all."""


@dataclass(frozen=True, slots=True)
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


COLUMNS: Final = [field.name for field in fields(Epoch)]
"""Of epochs.csv."""


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
class PackedConfusion:
    """The result of a finished cell as it lies on disk: the counts that are not 0.

    The four tables (best low, best full, last low, last full) are one run of counts.
    """

    names: list[str]
    epochs: tuple[int, int]
    """Best and last."""
    at: Int64[np.ndarray, " m"]
    """Where each count stands in the run, rising."""
    counts: Int64[np.ndarray, " m"]

    def table(
        self, choice: Choice, resolution: Resolution
    ) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """Where the counts of one table stand in it, and the counts."""
        size = len(self.names) * NUM_CLASSES**2
        first = size * TABLES.index((choice, resolution))
        part = slice(*np.searchsorted(self.at, [first, first + size]))
        return self.at[part] - first, self.counts[part]

    def of_frames(self, choice: Choice, resolution: Resolution) -> Int64[np.ndarray, "n 19 19"]:
        """One table whole: the confusion matrix of every frame."""
        at, counts = self.table(choice, resolution)
        whole = np.zeros((len(self.names), NUM_CLASSES, NUM_CLASSES), np.int64)
        whole.reshape(-1)[at] = counts
        return whole

    def whole(self) -> Confusion:
        """All four tables."""
        low, full, last_low, last_full = (self.of_frames(*which) for which in TABLES)
        best, last = self.epochs
        return Confusion(self.names, Counts(best, low, full), Counts(last, last_low, last_full))


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
    writer.writerow(COLUMNS)
    writer.writerows(astuple(epoch) for epoch in epochs)
    atomic.write_text(path, text.getvalue())


def read_epochs(path: Path) -> list[Epoch]:
    """The finished epochs, oldest first; empty if there is no table yet."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [COLUMNS]
        if header != COLUMNS:
            raise ValueError(f"columns {', '.join(header)}")
        return [Epoch(int(epoch), *map(float, numbers)) for epoch, *numbers in rows]
    except (csv.Error, TypeError, ValueError) as error:
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
    """Read confusion.npz, every table whole.

    Raises:
        InputError: as `read_packed`.
    """
    return read_packed(path).whole()


def read_packed(path: Path) -> PackedConfusion:
    """Read confusion.npz; also of the form it had first, with each of the four tables whole.

    Raises:
        InputError: the file is damaged or not of this form.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"].tolist()]
            if "best_low" in arrays:
                epochs, run = _of_first_form(arrays, len(names))
            else:
                epochs, run = arrays["epochs"].tolist(), _unpacked(arrays, len(names))
            best, last = (int(epoch) for epoch in epochs)
            return PackedConfusion(names, (best, last), *run)
    except DAMAGED as error:
        raise InputError(f"{path} is not a table of counts", got=str(error)) from None


Run = tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]
"""Places and counts."""


def _of_first_form(arrays: Mapping[str, np.ndarray], frames: int) -> tuple[list[int], Run]:
    """Epochs, and counts."""
    epochs = [int(arrays[f"{choice}_epoch"]) for choice in ("best", "last")]
    tables = np.stack([arrays[f"{choice}_{resolution}"] for choice, resolution in TABLES])
    if tables.shape[1:] != (frames, NUM_CLASSES, NUM_CLASSES):
        raise ValueError(f"tables {tables.shape} for {frames} frames")
    at = np.flatnonzero(tables)
    return epochs, (at, tables.ravel()[at].astype(np.int64))


def _unpacked(arrays: Mapping[str, np.ndarray], frames: int) -> Run:
    """Out of zeros and bytes."""
    zeros, parts = arrays["zeros"], arrays["bytes"]
    size = len(TABLES) * frames * NUM_CLASSES**2
    if zeros.ndim != 1 or parts.dtype != np.uint8 or parts.shape[1:] != zeros.shape:
        raise ValueError(f"{parts.dtype} of shape {parts.shape} for {zeros.shape} counts")
    if zeros.dtype.kind not in "iu" or zeros.min(initial=0) < 0 or zeros.max(initial=0) > size:
        raise ValueError(f"{zeros.dtype} that are no numbers of zeros")
    whole = np.zeros((len(zeros), 8), np.uint8)
    for rank, part in enumerate(parts):
        whole[:, rank] = part
    at = zeros.astype(np.int64)
    at += 1
    np.cumsum(at, out=at)
    at -= 1
    if len(at) and at[-1] >= size:
        raise ValueError(f"a count at {at[-1]} of {size}")
    return at, whole.view("<i8")[:, 0].astype(np.int64, copy=False)
