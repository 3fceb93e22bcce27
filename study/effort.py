"""What rows have cost: epochs, time, and hours of the device that they ran on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from study.progress import RowProgress
from study.store import StudyRecord


@dataclass(frozen=True)
class Device:
    """What a cell ran on, as far as the study's record tells."""

    kind: Literal["GPU", "CPU core"]
    per_cell: float
    """How much of it a cell was given: a share of a GPU, or a number of cores."""


@dataclass(frozen=True)
class Effort:
    """What all cells of a row have cost so far; a crashed epoch is in no table, and not in here."""

    epochs: int
    train_s: float
    """Of training, summed over the cells."""
    val_s: float
    """Of scoring the validation frames."""
    device_hours: float
    """Of a whole GPU, or of one CPU core; waiting for data counts as work."""
    images_per_s: float
    """Training samples a second of training; NaN before the first epoch."""


def device_of(record: StudyRecord) -> Device:
    """The device of the machine that started the study; on a cluster others may differ."""
    resources = record.config.resources
    if record.hardware.get("gpus", "none") != "none":
        return Device("GPU", resources.gpus_per_trial)
    return Device("CPU core", float(record.cpus_per_trial or resources.cpus_per_trial or 1))


def effort_of(row: RowProgress, device: Device) -> Effort:
    """Sum the epochs of a row's cells."""
    epochs = [epoch for cell in row.cells for epoch in cell.epochs]
    train_s = sum(epoch.train_s for epoch in epochs)
    val_s = sum(epoch.val_s for epoch in epochs)
    images = sum(epoch.images_per_s * epoch.train_s for epoch in epochs)
    return Effort(
        epochs=len(epochs),
        train_s=train_s,
        val_s=val_s,
        device_hours=(train_s + val_s) * device.per_cell / 3600,
        images_per_s=images / train_s if train_s else math.nan,
    )


def together(efforts: Iterable[Effort]) -> Effort:
    """What several rows have cost."""
    efforts = [effort for effort in efforts if effort.epochs]
    train_s = sum(effort.train_s for effort in efforts)
    images = sum(effort.images_per_s * effort.train_s for effort in efforts)
    return Effort(
        epochs=sum(effort.epochs for effort in efforts),
        train_s=train_s,
        val_s=sum(effort.val_s for effort in efforts),
        device_hours=sum(effort.device_hours for effort in efforts),
        images_per_s=images / train_s if train_s else math.nan,
    )
