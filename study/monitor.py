"""What shows a cell's epochs elsewhere while it trains: Ray's metrics and TensorBoard's files.

`study/grafana.json` is a Grafana dashboard over these metrics. Nothing is read back from here:
epochs.csv stays the record.
"""

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ray.util.metrics import Gauge
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2  # classes made at run time: ignores below

from cityseg import atomic
from cityseg.cell import Cell, Epoch, read_epochs

LABELS: Final[tuple[str, ...]] = ("study", "variant", "fold")
"""Of every metric: the study's name, such as `paper`; the variant, such as `v003`; the fold."""

REFRESH_S: Final = 4
"""Ray exports its metrics every 10 s, and forgets a gauge that was not set again since the last
time; an epoch may take hours."""


@dataclass(frozen=True)
class Quantity:
    """A number of an epoch, and its names elsewhere."""

    field: str
    """Of `Epoch`."""
    metric: str
    """Ray exports it to Prometheus with `ray_` before it."""
    tag: str | None
    """In TensorBoard; None for the epoch itself, which is the step there."""
    description: str


QUANTITIES: Final = (
    Quantity("miou_low", "cityseg_miou_low", "mIoU/low", "mIoU at the input size, 0-1"),
    Quantity("miou_full", "cityseg_miou_full", "mIoU/full", "mIoU at full size, 0-1"),
    Quantity("train_loss", "cityseg_train_loss", "loss/train", "Training loss, nats a pixel"),
    Quantity("val_loss", "cityseg_val_loss", "loss/val", "Validation loss, nats a pixel"),
    Quantity("lr", "cityseg_lr", "lr", "Learning rate"),
    Quantity("images_per_s", "cityseg_images_per_s", "images_per_s", "Training images a second"),
    Quantity("epoch", "cityseg_epoch", None, "Last finished epoch"),
)


class Monitor:
    """Shows a cell's epochs, each exactly once, whatever was killed before.

    Event files of earlier starts are replaced on entering: the last of them may be torn, or hold
    an epoch that was run again. What keeps them from being written is a DiskError.
    """

    def __init__(self, study: str, variant: int, fold: int, folder: Path, past: list[Epoch]):
        self.cell = Cell(folder)
        self.folder = folder / "tensorboard"
        """Of the event files."""
        self.past = past
        self.latest: Epoch | None = None
        """The last epoch that is shown."""
        labels = {"study": study, "variant": f"v{variant:03d}", "fold": str(fold)}
        self._gauges = {
            quantity: Gauge(quantity.metric, quantity.description, LABELS).set_default_tags(labels)
            for quantity in QUANTITIES
        }
        self._ended = threading.Event()
        self._refresher = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> Self:
        with atomic.disk_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob("events.out.tfevents.*"):
                file.unlink()
            self._events = EventsWriter(str(self.folder / "events"))
        # Time stands still between a kill and the next start: the axis is time spent on training.
        self._clock = time.time() - sum(_seconds(epoch) for epoch in self.past)
        self._show(self.past)
        self._refresher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._refresher.join()
        with atomic.disk_faults(self.folder):
            self._events.close()

    def epoch(self, epoch: Epoch) -> None:
        """Show an epoch that has just been finished, and written to the cell's table.

        A killed study's worker may have outlived its driver, and finished an epoch after `past`
        was read: it is in the table, and shown first.
        """
        shown = self.latest.epoch if self.latest else 0
        missed = [row for row in read_epochs(self.cell.epochs) if shown < row.epoch < epoch.epoch]
        self._show([*missed, epoch])

    def _show(self, epochs: list[Epoch]) -> None:
        with atomic.disk_faults(self.folder):
            for epoch in epochs:
                self._clock += _seconds(epoch)
                self._events.write_event(_event(epoch, self._clock))
                self.latest = epoch
            self._events.flush()
        self._set_gauges()

    def _set_gauges(self) -> None:
        latest = self.latest
        if latest is not None:
            for quantity, value in _known(latest):
                self._gauges[quantity].set(value)

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_S):
            self._set_gauges()


def _event(epoch: Epoch, wall_time: float) -> event_pb2.Event:  # pyright: ignore[reportAttributeAccessIssue] # protobuf makes its classes at run time
    """All of an epoch in one record, so that a torn file has it whole or not at all."""
    summary = summary_pb2.Summary()  # pyright: ignore[reportAttributeAccessIssue] # likewise
    for quantity, value in _known(epoch):
        if quantity.tag:
            summary.value.add(tag=quantity.tag, simple_value=value)
    return event_pb2.Event(wall_time=wall_time, step=epoch.epoch, summary=summary)  # pyright: ignore[reportAttributeAccessIssue] # likewise


def _known(epoch: Epoch) -> Iterator[tuple[Quantity, float]]:
    """What there is of an epoch: not each is scored at full size."""
    for quantity in QUANTITIES:
        value = getattr(epoch, quantity.field)
        if not math.isnan(value):
            yield quantity, value


def _seconds(epoch: Epoch) -> float:
    return epoch.train_s + epoch.val_s
