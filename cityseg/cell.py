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
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Int64

from cityseg import atomic
from cityseg.errors import InputError

Status = Literal["pending", "unfinished", "failed", "done"]

DAMAGED: Final = (
    OSError, KeyError, ValueError, TypeError, EOFError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise on an archive that is cut short, altered, or no archive at all."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: a row of epochs.csv."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean of the steps' losses (cross-entropy, nats a pixel), on augmented samples."""
    val_loss: float
    """Cross-entropy over all labelled validation pixels at the input size, nats a pixel."""
    miou_low: float
    """Against the resized labels, 0-1."""
    miou_full: float
    """Logits upsampled to each frame's own size, against its own labels, 0-1."""
    lr: float
    """Learning rate of this epoch."""
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
    full: Int64[np.ndarray, "n 19 19"]
    """At each frame's own size."""


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
    """Write confusion.npz (compressed; no pickled objects)."""
    arrays = {"names": np.array(confusion.names)}
    for which in ("best", "last"):
        for field, value in asdict(getattr(confusion, which)).items():
            arrays[f"{which}_{field}"] = np.asarray(value)
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_confusion(path: Path) -> Confusion:
    """Read confusion.npz.

    Raises:
        InputError: the file is damaged or not of this form.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            best, last = (
                Counts(
                    int(arrays[f"{which}_epoch"]), arrays[f"{which}_low"], arrays[f"{which}_full"]
                )
                for which in ("best", "last")
            )
            return Confusion([str(name) for name in arrays["names"]], best, last)
    except DAMAGED as error:
        raise InputError(f"{path} is not a table of counts", got=str(error)) from None
