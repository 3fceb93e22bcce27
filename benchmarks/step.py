"""What a training step of the paper's network costs on this processor: plain, and ours.

    python -m benchmarks.step
    python -m benchmarks.step --curves     also: loss curves of bfloat16 beside float32's

The plain step runs in a process of its own, without the settings that `cityseg` makes for a whole
process. Both have their batch at hand, and all cores.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import (
    PLAIN_ENVIRONMENT,
    Comparison,
    Options,
    Result,
    alternate,
    beside,
    computed,
    matmul_rate,
    report,
    step_flops,
)
from cityseg import minicity
from cityseg.cell import Cell, Epoch
from cityseg.config import Config, parse
from cityseg.data import Frame, index
from cityseg.errors import user_command
from cityseg.folds import make_folds
from cityseg.inputs import TrainBatch, normalise
from cityseg.labels import NUM_CLASSES
from cityseg.losses import cross_entropy
from cityseg.memory import keep_freed
from cityseg.precision import has_bfloat16
from cityseg.step import training_step
from cityseg.train import fit, start_run

CPU: Final = torch.device("cpu")

PRECISIONS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """What a training step of the paper's network costs on this processor: plain, and ours."""

    data: Path | None = None
    """Root of a data set that the curves are trained on; by default the embedded city."""
    size: tuple[int, int] = (128, 256)
    """Input size, height and width."""
    batch: int = 2
    """Samples a step."""
    n: int = 7
    """Timings of each way, in turns."""
    encoder: str = "resnet50"
    """torchvision's name of the ResNet."""
    width: float = 1.0
    """Factor on the decoder's channels."""
    variants: bool = True
    """Time the other precisions and memory formats, too."""
    curves: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train small networks in both precisions and compare their losses."""
    curve_seeds: int = 3
    """Trainings in each precision."""
    curve_epochs: int = 10
    """Epochs of each."""


def measure(options: StepOptions) -> Result:
    """Time the steps, then compare the curves if they are wanted."""
    if options.curves:
        curve_frames(options)  # that there are none is to be said at once
    chosen = "bfloat16" if has_bfloat16(CPU) else "float32"
    flops = step_flops(
        lambda: plain.PlainUNet(options.encoder, options.width), options.batch, options.size
    )
    rates = {name: matmul_rate(dtype) for name, dtype in computed().items()}
    rows = time_steps(chosen, flops, rates, options)
    curves = compare_curves(options) if options.curves else {}
    return Result(
        name="step",
        headline=rows[0],
        rows=rows[1:],
        facts={
            "precision chosen": chosen,
            "GFLOP a step": flops / 1e9,
            "matmul rate, GFLOP/s": {name: rate / 1e9 for name, rate in rates.items()},
            **{f"curves, {what}": summary(table) for what, table in curves.items()},
        },
        tables={f"{what}, mean over seeds": table for what, table in curves.items()},
        settings={
            "size": list(options.size),
            "batch": options.batch,
            "network": f"{options.encoder} width {options.width:g}",
            "threads": torch.get_num_threads(),
        },
    )


def time_steps(
    chosen: str, flops: float, rates: dict[str, float], options: StepOptions
) -> list[Comparison]:
    """Ours as it is configured first, then the other ways to compute it."""
    ways: list[tuple[str, bool]] = [(chosen, False)]
    if options.variants:
        ways += [(name, last) for last in (False, True) for name in rates]
    ways = list(dict.fromkeys(ways))
    keep_freed()  # as every training on a CPU does
    starts = {last: our_steps(last, options) for last in {last for _, last in ways}}
    calls = {f"{way}": starts[way[1]](way[0]) for way in ways}
    with beside(plain_step, options, environment=PLAIN_ENVIRONMENT) as theirs:
        times = alternate({"plain": theirs, **calls}, options.n, lead=1)
    labels = [f"{name}{', channels last' if last else ''}" for name, last in ways]
    return [
        Comparison(
            f"step, {label}" if i else f"step as configured, {label}",
            "s",
            times[f"{way}"],
            times["plain"],
            flops / rates[way[0]],
            f"{way[0]} matmul rate",
        )
        for i, (label, way) in enumerate(zip(labels, ways, strict=True))
    ]


def our_steps(channels_last: bool, options: StepOptions) -> Callable[[str], Callable[[], object]]:
    """A network of ours, from which comes its step in either precision."""
    run = start_run(config_of("float32", options), CPU)
    if channels_last:
        run.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # torch's stubs
    run.model.train()
    batch = TrainBatch(*random_batch(options))

    def in_precision(precision: str) -> Callable[[], object]:
        config = config_of(precision, options)
        step = training_step(run.model, run.optimizer, cross_entropy, config, CPU)
        return lambda: step(batch)

    return in_precision


def config_of(precision: str, options: StepOptions) -> Config:
    """The paper's network, without its pretrained weights: they change no time."""
    settings: dict[str, Any] = {
        "data": {"input_size": list(options.size)},
        "model": {
            "encoder": options.encoder, "decoder_width": options.width, "weights": "none",
        },
        "train": {"batch_size": options.batch, "precision": precision},
    }  # fmt: skip
    return parse(settings, "benchmark")


def plain_step(options: StepOptions) -> Callable[[], object]:
    """The plain step, with normalised images at hand."""
    model = plain.PlainUNet(options.encoder, options.width).train()
    optimizer = plain.optimizer_of(model)
    image, target = random_batch(options)
    normalised, classes = normalise(image), target.long()
    return lambda: plain.step(model, optimizer, normalised, classes)


def random_batch(options: StepOptions) -> tuple[Tensor, Tensor]:
    """Images and targets as a loader gives them, of noise."""
    image = torch.randint(0, 256, (options.batch, *options.size, 3), dtype=torch.uint8)
    target = torch.randint(0, NUM_CLASSES, (options.batch, *options.size), dtype=torch.uint8)
    return image.permute(0, 3, 1, 2), target


def compare_curves(options: StepOptions) -> dict[str, list[dict[str, float]]]:
    """Losses by epoch of the same small trainings in float32 and in bfloat16."""
    with tempfile.TemporaryDirectory(prefix="cityseg-curves-") as folder:
        curves = {
            precision: [
                small_training(precision, seed, options, Path(folder))
                for seed in range(options.curve_seeds)
            ]
            for precision in PRECISIONS
        }
    return {
        what: curve_table(*(
            np.array([[getattr(epoch, field) for epoch in run] for run in runs])
            for runs in curves.values()
        ))
        for what, field in {
            "training loss": "train_loss", "validation loss": "val_loss", "mIoU low": "miou_low",
        }.items()
    }  # fmt: skip


def curve_frames(options: StepOptions) -> list[Frame]:
    """What the small networks are trained and scored on.

    Raises:
        InputError: no such data set.
    """
    return index(options.data or minicity.ensure(Config().city), "train")


def small_training(precision: str, seed: int, options: StepOptions, folder: Path) -> list[Epoch]:
    """One fold of a third of the frames, on a small network; the seed sets weights and order."""
    settings: dict[str, Any] = {
        "seed": seed,
        "data": {"input_size": [64, 128]},
        "model": {"encoder": "resnet18", "decoder_width": 0.25, "weights": "none"},
        "train": {"epochs": options.curve_epochs, "lr": 1e-3, "precision": precision},
        "folds": {"seed": 0},
        "evaluate": {"predictions": 0},
        "resources": {"cache_dir": str(folder)},
    }
    config = parse(settings, "benchmark")
    frames = curve_frames(options)
    folds = make_folds(frames, config.folds.count, config.folds.grouping, config.fold_seed)
    cell = Cell(folder / f"{precision}-{seed}")
    return list(fit(config, *folds.split(frames, 1), cell, CPU))


def curve_table(float32: np.ndarray, bfloat16: np.ndarray) -> list[dict[str, float]]:
    """By epoch, from [seed, epoch]: means, their difference, and the spread over seeds (std)."""
    pairs = bfloat16 - float32
    columns = {
        "float32": float32.mean(0),
        "bfloat16": bfloat16.mean(0),
        "difference": pairs.mean(0),
        "std of float32 over seeds": float32.std(0, ddof=1),
        "std of the difference": pairs.std(0, ddof=1),
    }
    epochs = range(float32.shape[1])
    return [
        {"epoch": e + 1, **{name: float(column[e]) for name, column in columns.items()}}
        for e in epochs
    ]


def summary(table: Sequence[dict[str, float]]) -> dict[str, float]:
    """The difference of the mean curves over all epochs, beside the spread over seeds."""
    difference = [row["difference"] for row in table]
    spread = [row["std of float32 over seeds"] for row in table]
    return {
        "mean difference": float(np.mean(difference)),
        "mean absolute difference": float(np.mean(np.abs(difference))),
        "mean std over seeds": float(np.mean(spread)),
        "difference of the last epoch": difference[-1],
    }


@user_command
def main() -> int:
    """Run the command line."""
    options = tyro.cli(StepOptions, prog="python -m benchmarks.step")
    report(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
