"""What views, windows, a CRF and an ensemble add to the score, and what they cost a frame.

    python -m benchmarks.inference --data ROOT --ensemble results/NAME/v000

Each way scores the same frames of `val`. Gains are of the first fold's network over itself, looking
once; the ensemble's are over the mean of its networks. Seconds are of one frame's scores, at the
size that the network sees, and its train ids at its own size.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import tyro

from benchmarks.measure import (
    Comparison,
    Options,
    Result,
    Timing,
    alternate,
    report,
)
from cityseg import minicity
from cityseg.data import Frame, index, read_image
from cityseg.ensemble import TOGETHER, Ensemble, find_members, load
from cityseg.errors import user_command
from cityseg.evaluate import Evaluation, count
from cityseg.metrics import mean_iou
from cityseg.samples import val_loader

PLAIN: Final = "plain"

WAYS: Final[dict[str, tuple[str, ...]]] = {
    PLAIN: (),
    "flip": ("inference.flip=true",),
    "scales 0.75, 1, 1.25": ("inference.scales=[0.75,1,1.25]",),
    "flip and scales": ("inference.flip=true", "inference.scales=[0.75,1,1.25]"),
    "native": ("inference.input=native",),
    "native, windows": ("inference.input=native", "inference.window={window}"),
    "crf": ("inference.crf.iterations=5",),
    "native, crf": ("inference.input=native", "inference.crf.iterations=5"),
}
"""Settings over those that the network was trained with; the window is the input size."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(Options):
    """What views, windows, a CRF and an ensemble add to the score, and what they cost a frame."""

    ensemble: Path
    """A row of a study, with its weights (results/NAME/v000)."""
    frames: int | None = None
    """Frames of `val` that are scored and timed; by default all."""
    n: int = 5
    """Timings of each way, in turns; one frame a timing."""


@dataclass(frozen=True)
class Way:
    """One way to look at a frame: what it scores, and who does it."""

    ensemble: Ensemble
    evaluation: Evaluation

    @property
    def miou(self) -> tuple[float, float]:
        """Low and full resolution."""
        low, full = self.evaluation.low, self.evaluation.full
        return float(mean_iou(low.sum(0))), float(mean_iou(full.sum(0)))


def measure(options: InferenceOptions) -> Result:
    """Score each way on all frames, then time all by turns."""
    files = find_members(options.ensemble)
    first = dict([next(iter(files.items()))])
    plain, together = load(first), load(files)
    frames = frames_of(plain, options)
    height, width = plain.config.data.input_size
    ways = {
        name: scored(
            load(first, tuple(w.format(window=f"[{height},{width}]") for w in words)), frames
        )
        for name, words in WAYS.items()
    }
    members = together.evaluate(val_loader(frames, together.config, 0, pin=False))
    ways[name_of(together)] = Way(together, members.pop(TOGETHER))
    images = [read_image(frame.image) for frame in frames[: options.n]]
    calls = {name: Turns(way.ensemble, images) for name, way in ways.items()}
    wait: Callable[[], object] = (
        torch.cuda.synchronize if plain.device.type == "cuda" else lambda: None
    )
    times = alternate(calls, options.n, wait=wait)
    rows = [Comparison(f"a frame, {name}", "s", times[name], times[PLAIN]) for name in calls]
    single = np.mean([Way(together, one).miou for one in members.values()], axis=0)
    return Result(
        name="inference",
        headline=rows[0],
        rows=rows[1:],
        tables={"mIoU": table(ways, times, (float(single[0]), float(single[1])))},
        settings={
            "frames": len(frames),
            "networks": len(files),
            "input": [height, width],
            "device": str(plain.device),
            "threads": torch.get_num_threads(),
        },
    )


def frames_of(plain: Ensemble, options: InferenceOptions) -> list[Frame]:
    """Of the data set, or of the embedded city of the weights' configuration."""
    root = options.data or minicity.ensure(plain.config.city)
    return index(root, "val")[: options.frames]


def scored(ensemble: Ensemble, frames: list[Frame]) -> Way:
    """A network's counts by its own settings."""
    batches = val_loader(frames, ensemble.config, 0, pin=False)
    return Way(ensemble, count(ensemble.score, batches, ensemble.device))


class Turns:
    """Predicts one image after the other, a call each."""

    def __init__(self, ensemble: Ensemble, images: list[np.ndarray]):
        self.ensemble = ensemble
        self.images = images
        self.turn = 0

    def __call__(self) -> np.ndarray:
        """Train ids of the next image."""
        image = self.images[self.turn % len(self.images)]
        self.turn += 1
        return self.ensemble.predict(image)


def name_of(ensemble: Ensemble) -> str:
    """As the table names it."""
    return f"ensemble of {len(ensemble.networks)}"


def table(
    ways: dict[str, Way], times: dict[str, Timing], single: tuple[float, float]
) -> list[dict[str, Any]]:
    """Scores, gains in points of mIoU, and cost; an ensemble's gains are over `single`, the mean of
    its networks, any other way's over looking once."""
    rows = []
    for name, way in ways.items():
        base = ways[PLAIN].miou if len(way.ensemble.networks) == 1 else single
        low, full = way.miou
        rows.append({
            "way": name, "low-res": round(low, 4), "full-res": round(full, 4),
            "gain low": round(100 * (low - base[0]), 2),
            "gain full": round(100 * (full - base[1]), 2),
            "s a frame": float(f"{times[name].median:.3g}"), "n": times[name].n,
            "frames": len(way.evaluation.names),
        })  # fmt: skip
    return rows


@user_command
def main() -> int:
    """Run the command line."""
    options = tyro.cli(InferenceOptions, prog="python -m benchmarks.inference")
    report(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
