"""What both mIoUs of a frame cost, from given logits: by torchmetrics, and by our counts.

    python -m benchmarks.evaluate

The frames' labels are real, the logits a noisy version of them. Both ways' counts are compared, and
must be equal to the unit.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import (
    PLAIN_ENVIRONMENT,
    Comparison,
    Options,
    Result,
    Timing,
    alternate,
    beside,
    copy_rate,
    frames_of,
    report,
)
from cityseg.confusion import confusion_counts
from cityseg.data import Frame, read_frame
from cityseg.errors import user_command
from cityseg.evaluate import full_prediction, prediction
from cityseg.labels import IGNORE, NUM_CLASSES
from cityseg.memory import keep_freed

MB = 1e6


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """What both mIoUs of a frame cost, from given logits: by torchmetrics, and by our counts."""

    frames: int = 4
    """Frames that are scored, one after the other."""
    height: int = 1024
    """Of the embedded city's frames, in pixels; they are twice as wide."""
    size: tuple[int, int] = (512, 1024)
    """Of the logits, height and width."""
    n: int = 12
    """Timings of each way, in turns; one frame a timing."""


@dataclass(frozen=True)
class Scored:
    """What is scored: one frame, as a batch."""

    logits: Float[Tensor, "1 19 h w"]
    target: UInt8[Tensor, "1 h w"]
    full: UInt8[Tensor, "1 h2 w2"]


Confusions = tuple[Int64[np.ndarray, "19 19"], Int64[np.ndarray, "19 19"]]
"""At the size of the logits and at the frame's own, summed over frames."""


def measure(options: EvaluateOptions) -> Result:
    """Time both ways, each frame in turn; compare counts; and see what memory each takes."""
    keep_freed()  # as every training on a CPU does
    scored = cases(options, options.frames)
    ours = OurCounts(scored)
    with beside(plain_counts, options, environment=PLAIN_ENVIRONMENT) as theirs:
        times = alternate({"plain": theirs, "ours": ours}, options.n)
    first, rate = scored[0], copy_rate()
    read = first.logits.nbytes + first.target.nbytes + first.full.nbytes
    headline = Comparison(
        "both mIoUs of a frame",
        "s",
        times["ours"],
        times["plain"],
        read / rate,
        "reading logits and labels",
    )
    upsampled = 4 * NUM_CLASSES * first.full.numel()
    return Result(
        name="evaluate",
        headline=headline,
        rows=memory(options),
        facts={
            **differences(ours.once(), PlainCounts(scored).once()),
            "full-size logits alone, MB": upsampled / MB,
            "writing and reading them, s": 2 * upsampled / rate,
        },
        settings={
            "frames": len(scored),
            "source": list(first.full.shape[1:]),
            "logits": list(options.size),
            "threads": torch.get_num_threads(),
        },
    )


def differences(ours: Confusions, theirs: Confusions) -> dict[str, list[int]]:
    """Sums over both matrices, at the size of the logits and at the frames' own."""
    return {
        "pixels counted differently, low and full": [
            int(np.abs(a - b).sum()) for a, b in zip(ours, theirs, strict=True)
        ],
        "pixels counted, low and full": [int(counts.sum()) for counts in ours],
    }


def memory(options: EvaluateOptions) -> list[Comparison]:
    """How far both ways' processes grow; nothing where the system does not say."""
    ours, theirs = (peak_growth(name, options) for name in ("ours", "plain"))
    return [Comparison("growth of memory at its peak", "MB", ours, theirs)] if ours else []


def cases(options: EvaluateOptions, count: int) -> list[Scored]:
    """What is scored, of the first few frames."""
    frames = frames_of(options.data, options.frames, options.height)
    return [case(frame, options.size, seed) for seed, frame in enumerate(frames[:count])]


def case(frame: Frame, size: tuple[int, int], seed: int) -> Scored:
    """A frame with logits that are right at most places."""
    full = torch.from_numpy(read_frame(frame)[1])[None]
    target = F.interpolate(full[None], size)[0]  # the nearest pixel's label
    logits = torch.randn(1, NUM_CLASSES, *size, generator=torch.Generator().manual_seed(seed))
    classes = torch.where(target == IGNORE, 0, target).long()
    logits += 4 * F.one_hot(classes, NUM_CLASSES).permute(0, 3, 1, 2)
    return Scored(logits, target, full)


class PlainCounts:
    """torchmetrics' way: each call scores the next frame."""

    def __init__(self, scored: list[Scored]):
        self.scored = scored
        self.turn = 0
        self.targets = [(one.target.long(), one.full.long()) for one in scored]
        self.scores = plain.Scores()

    def __call__(self) -> None:
        """One frame; its int64 labels are at hand."""
        i = self.turn % len(self.scored)
        self.turn += 1
        self.scores.update(self.scored[i].logits, *self.targets[i])

    def once(self) -> Confusions:
        """Counts of all frames."""
        self.scores = plain.Scores()
        for _ in self.scored:
            self()
        low, full = (metric.confmat.numpy() for metric in (self.scores.low, self.scores.full))
        return low, full


def plain_counts(options: EvaluateOptions) -> PlainCounts:
    """For a process of its own."""
    return PlainCounts(cases(options, options.frames))


class OurCounts:
    """Our way: each call scores the next frame."""

    def __init__(self, scored: list[Scored]):
        self.scored = scored
        self.turn = 0

    def __call__(self) -> tuple[Int64[Tensor, "1 19 19"], Int64[Tensor, "1 19 19"]]:
        """One frame."""
        one = self.scored[self.turn % len(self.scored)]
        self.turn += 1
        low = confusion_counts(prediction(one.logits), one.target)
        full = full_prediction(one.logits[0], *one.full.shape[1:])
        return low, confusion_counts(full[None], one.full)

    def once(self) -> Confusions:
        """Counts of all frames."""
        low, full = zip(*(self() for _ in self.scored), strict=True)
        return torch.cat(low).sum(0).numpy(), torch.cat(full).sum(0).numpy()


def peak_growth(name: str, options: EvaluateOptions) -> Timing | None:
    """MB that a process grows by while it scores a frame; None where the system does not say."""
    environment = PLAIN_ENVIRONMENT if name == "plain" else {}
    with beside(growth_meter, name, options, environment=environment) as grow:
        grown: list[Any] = [grow() for _ in range(4)][1:]
    return None if None in grown else Timing.of(grown)


def growth_meter(name: str, options: EvaluateOptions) -> Callable[[], float | None]:
    """A call that scores one frame and says by how many MB the process grew meanwhile."""
    score = {"plain": PlainCounts, "ours": OurCounts}[name](cases(options, 1))

    def call() -> float | None:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = memory_kb("VmRSS")
            score()
            return (memory_kb("VmHWM") - before) * 1024 / MB
        except OSError:
            return None

    return call


def memory_kb(field: str) -> int:
    """Of this process, as Linux counts it: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"no {field} in /proc/self/status")


@user_command
def main() -> int:
    """Run the command line."""
    options = tyro.cli(EvaluateOptions, prog="python -m benchmarks.evaluate")
    report(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
