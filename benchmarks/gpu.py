"""How fast one GPU trains and scores the paper's network, and what the paper's study would take.

    python -m benchmarks.gpu

Measured at 512x1024: images a second in training and validation, for batches of 2 to 16, plainly
and our way; what of the GPU's matrix rate that is; the loader beside the step; several cells on one
GPU at a time; where the time of a step goes. Ray, Optuna and albumentations are not needed;
without albumentations the loader is left out.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.measure import (
    Comparison,
    Options,
    Result,
    Timing,
    copy_rate,
    frames_of,
    matmul_rate,
    report,
)
from cityseg.config import Config, parse
from cityseg.errors import InputError, user_command
from cityseg.evaluate import Forward, evaluate
from cityseg.inputs import TrainBatch, ValBatch
from cityseg.losses import cross_entropy
from cityseg.model import build_unet
from cityseg.precision import choose_kernels, place
from cityseg.step import training_step
from cityseg.train import start_run

SIZE: Final = (512, 1024)
FULL: Final = (1024, 2048)
PAPER: Final = {"folds": 3, "epochs": 65, "frames": 2975}
"""The study whose time is projected: each epoch trains on two thirds and validates one third."""

PACKED_STEPS: Final = 150

KINDS: Final = {
    "convolutions": ("fprop", "dgrad", "wgrad", "gemm", "cutlass", "cudnn", "conv"),
    "optimiser": ("FusedOptimizer", "fused_adam", "multi_tensor"),
    "batch norm, ReLU and other fused": ("triton",),
    "batch norm": ("batch_norm",),
    "copies and casts": ("copy", "Memcpy", "Memset", "fill"),
}
"""Kernels by words of their names; the first that fits."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Measure one GPU."""

    batches: tuple[int, ...] = (2, 4, 8, 16)
    """Batch sizes; the first is the paper's."""
    compiled: tuple[int, ...] = (2, 8)
    """Batch sizes measured with train.compile, too, compiled ahead all at a time; the last also in
    validation."""
    cells: int = 3
    """Trainings that share the GPU at a time, by NVIDIA's MPS where there is such, and without."""
    minutes: float = 8
    """Parts that would begin later are left out."""
    blocks: int = 5
    """Blocks of steps that each figure is the median of."""
    steps: int = 10
    """Steps a block."""


@dataclass(frozen=True)
class Rate:
    """Seconds an image, and the memory that it took."""

    seconds: Timing
    memory_gb: float
    first_s: float
    """Until the measurement could begin: choice of kernels, compilation."""


def configuration(batch: int, compiled: bool) -> Config:
    """The paper's, from scratch."""
    settings = {
        "data": {"input_size": list(SIZE), "cache": "disk"},
        "model": {"weights": "none"},
        "train": {"batch_size": batch, "compile": compiled},
        "evaluate": {"batch_size": batch},
    }
    return parse(settings, "the benchmark")


def train_batch(batch: int) -> TrainBatch:
    """Random samples, in pinned memory as the loader's."""
    image = torch.randint(0, 256, (batch, 3, *SIZE), dtype=torch.uint8)
    return TrainBatch(image, torch.randint(0, 19, (batch, *SIZE), dtype=torch.uint8)).pin_memory()


def val_batch(batch: int) -> ValBatch:
    """The same with labels at full size."""
    sample = train_batch(batch)
    full = [torch.randint(0, 19, FULL, dtype=torch.uint8) for _ in range(batch)]
    names = [f"frame{i}" for i in range(batch)]
    return ValBatch(names, sample.image, sample.target, full).pin_memory()


@contextlib.contextmanager
def clean() -> Iterator[None]:
    """With all of the GPU's memory free, before and after."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()
    torch.cuda.empty_cache()


def rate_of(
    call: Callable[[], object], images: int, blocks: int, steps: int, warmup: int = 6
) -> Rate:
    """Time blocks of calls, each waited for at its end only."""
    started = time.perf_counter()
    for _ in range(warmup):
        call()
    torch.cuda.synchronize()
    first_s = time.perf_counter() - started
    seconds: list[float] = []
    for _ in range(blocks):
        started = time.perf_counter()
        for _ in range(steps):
            call()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / (steps * images))
    return Rate(Timing.of(seconds), torch.cuda.max_memory_allocated() / 1e9, first_s)


def plain_training(batch: int, arguments: Arguments) -> Rate:
    """Float32, one operation at a time, the loss read after every step."""
    torch.backends.cudnn.benchmark = False  # as it comes
    with clean():
        model = plain.PlainUNet().cuda()
        optimizer = plain.optimizer_of(model)
        image = torch.randn(batch, 3, *SIZE).pin_memory()
        target = torch.randint(0, 19, (batch, *SIZE)).pin_memory()
        return rate_of(
            lambda: plain.step(model, optimizer, image.cuda(), target.cuda()),
            batch, arguments.blocks, arguments.steps, 3,
        )  # fmt: skip


def our_training(batch: int, compiled: bool, arguments: Arguments) -> Rate:
    """`cityseg.step`, as `fit` uses it."""
    device = torch.device("cuda")
    config = configuration(batch, compiled)
    choose_kernels(config, device)
    with clean():
        run = start_run(config, device)
        step = training_step(run.model, run.optimizer, cross_entropy, config, device)
        sample = train_batch(batch)
        return rate_of(lambda: step(sample), batch, arguments.blocks, arguments.steps)


def plain_validation(arguments: Arguments) -> Rate | None:
    """Frame by frame, torchmetrics on the GPU; None where that is not installed."""
    with clean(), contextlib.suppress(ImportError), torch.no_grad():
        model = plain.PlainUNet().cuda().eval()
        scores = plain.Scores("cuda")
        image = torch.randn(1, 3, *SIZE).pin_memory()
        target, full = (torch.randint(0, 19, (1, *size)).pin_memory() for size in (SIZE, FULL))

        def frame() -> None:
            logits = model(image.cuda())
            scores.update(logits, target.cuda(), full.cuda())

        return rate_of(frame, 1, arguments.blocks, arguments.steps, 3)
    return None


def our_validation(batch: int, compiled: bool, arguments: Arguments) -> Rate:
    """`cityseg.evaluate`: counts of both resolutions."""
    device = torch.device("cuda")
    config = configuration(batch, compiled)
    choose_kernels(config, device)
    with clean():
        model = place(build_unet(), device)
        forward = Forward(model, config, device)
        sample = val_batch(batch)
        passes = [sample] * arguments.steps
        evaluate(model, [sample], config, device, forward)
        return rate_of(
            lambda: evaluate(model, passes, config, device, forward),
            batch * arguments.steps, arguments.blocks, 1, 1,
        )  # fmt: skip


def compile_ahead(arguments: Arguments) -> float:
    """Fill the compiler's cache on disk for all sizes at a time; returns the seconds."""
    context = multiprocessing.get_context("spawn")
    once = Arguments(blocks=1, steps=1)
    started = time.perf_counter()
    work = [(our_training, batch) for batch in arguments.compiled]
    work.append((our_validation, arguments.compiled[-1]))
    processes = [context.Process(target=do, args=(size, True, once)) for do, size in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.perf_counter() - started


def packing(batch: int, compiled: bool, arguments: Arguments) -> dict[str, float]:
    """Images a second of several trainings on one GPU, together."""
    rates: dict[str, float] = {}
    for how in (sharing, contextlib.nullcontext):
        with how() as name:
            if how is sharing and name is None:
                continue
            label = f"images a second, {arguments.cells} trainings at a time{name or ''}"
            rates[label] = packed_rate(batch, compiled, arguments)
            print(label, rates[label], file=sys.stderr, flush=True)
    return rates


@contextlib.contextmanager
def sharing() -> Iterator[str | None]:
    """NVIDIA's MPS, by which kernels of several processes run side by side; None without it."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        places = [f"CUDA_MPS_{what}_DIRECTORY" for what in ("PIPE", "LOG")]
        before = {name: os.environ[name] for name in places if name in os.environ}
        os.environ.update(dict.fromkeys(places, folder))
        started = subprocess.run([control, "-d"], capture_output=True, text=True, check=False)
        try:
            yield ", by MPS" if started.returncode == 0 else None
        finally:
            subprocess.run([control], input="quit\n", capture_output=True, text=True, check=False)
            for name in places:
                os.environ.pop(name)
            os.environ.update(before)


def packed_rate(batch: int, compiled: bool, arguments: Arguments) -> float:
    """Images a second of several processes that train on one GPU at the same time, together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(arguments.cells)
    pipes = [context.Pipe(duplex=False) for _ in range(arguments.cells)]
    processes = [
        context.Process(target=_packed, args=(batch, compiled, barrier, sender))
        for _, sender in pipes
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()  # so that the end of a process is seen
    spans = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    began, ended = min(b for b, _ in spans), max(e for _, e in spans)
    return arguments.cells * PACKED_STEPS * batch / (ended - began)


def _packed(batch: int, compiled: bool, barrier: Any, sender: Any) -> None:
    device = torch.device("cuda")
    config = configuration(batch, compiled)
    choose_kernels(config, device)
    run = start_run(config, device)
    step = training_step(run.model, run.optimizer, cross_entropy, config, device)
    sample = train_batch(batch)
    for _ in range(8):
        step(sample)
    torch.cuda.synchronize()
    barrier.wait(200)
    began = time.monotonic()
    for _ in range(PACKED_STEPS):
        step(sample)
    torch.cuda.synchronize()
    sender.send((began, time.monotonic()))


def loader_rates(batch: int, arguments: Arguments) -> dict[str, float]:
    """Samples a second: of the loader alone, and of an epoch that trains on what it brings."""
    try:
        from cityseg.samples import train_loader
    except ImportError:
        return {}
    from cityseg.cache import ensure
    from cityseg.train import _train_epoch, loader_workers

    device = torch.device("cuda")
    config = configuration(batch, False)
    frames = frames_of(arguments.data, 16)
    read = ensure(frames)
    many = frames * 40
    workers = loader_workers(config.resources, device)
    loader, batches = train_loader(many, config, workers, True, read)
    for _ in loader:  # the first pass starts the workers
        pass
    batches.epoch = 2
    started = time.perf_counter()
    count = sum(len(sample.image) for sample in loader)
    alone = count / (time.perf_counter() - started)
    choose_kernels(config, device)
    with clean():
        run = start_run(config, device)
        step = training_step(run.model, run.optimizer, cross_entropy, config, device)
        for sample in (train_batch(batch) for _ in range(6)):
            step(sample)
        torch.cuda.synchronize()
        started = time.perf_counter()
        batches.epoch = 3
        _train_epoch(run, step, loader, batches, lambda epoch, i: many[i].name)
        whole = len(batches) * batch / (time.perf_counter() - started)
    return {
        "processes that load": workers,
        "samples a second, loader alone": alone,
        "samples a second, an epoch of loader and step": whole,
    }


def profile(batch: int, compiled: bool) -> dict[str, float]:
    """Milliseconds a step by kind of kernel."""
    device = torch.device("cuda")
    config = configuration(batch, compiled)
    with clean():
        run = start_run(config, device)
        step = training_step(run.model, run.optimizer, cross_entropy, config, device)
        sample = train_batch(batch)
        for _ in range(6):
            step(sample)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
            for _ in range(3):
                step(sample)
            torch.cuda.synchronize()
    spent = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in found.key_averages():
        kind = next(
            (k for k, words in KINDS.items() if any(word in event.key for word in words)), "other"
        )
        spent[kind] += event.self_device_time_total / 3e3
    return {kind: round(ms, 3) for kind, ms in spent.items()}


def flops_an_image() -> float:
    """Of the forward pass at `SIZE`, counting a multiply-add as two; a training step is three."""
    with torch.device("meta"):
        model = build_unet()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *SIZE))
    return float(counter.get_total_flops())


def hours(train_s: float, val_s: float) -> float:
    """Of the paper's study, one cell after the other, from the seconds an image."""
    folds, epochs, frames = PAPER["folds"], PAPER["epochs"], PAPER["frames"]
    val = frames / folds
    return folds * epochs * ((frames - val) * train_s + val * val_s) / 3600


def measure(arguments: Arguments) -> Result:
    """All of it, most important first; what there is no time for is named."""
    ends = time.monotonic() + 60 * arguments.minutes
    flops = flops_an_image()
    rate = matmul_rate(torch.bfloat16, "cuda", 8192, wait=torch.cuda.synchronize)
    copied = copy_rate("cuda", 2**30, wait=torch.cuda.synchronize)
    found = Found(flops / rate)
    found.facts["bfloat16 matrix product, TFLOP/s"] = rate / 1e12
    found.facts["copy on the device, GB/s read and written"] = 2 * copied / 1e9
    paper = arguments.batches[0]
    if arguments.compiled:
        found.facts["compilation, all sizes at a time, s"] = compile_ahead(arguments)
    parts: dict[str, Callable[[], None]] = {
        "plain validation": lambda: found.validation(None, False, plain_validation(arguments)),
    }
    fast = paper in arguments.compiled
    further: dict[str, Callable[[], None]] = {
        "loader": lambda: found.facts.update(loader_rates(paper, arguments)),
        "kernels": lambda: found.facts.update({"ms of a step by kernels": profile(paper, fast)}),
        "packing": lambda: found.facts.update(packing(paper, fast, arguments)),
    }
    for batch in sorted(arguments.batches, key=lambda b: (b != paper, b not in arguments.compiled)):
        parts |= _parts_of(batch, found, arguments)
        if batch == paper:
            parts |= further
    for name, part in parts.items():
        if time.monotonic() > ends and f"training, batch {paper}" not in name:  # the headline
            found.facts.setdefault("left out for lack of time", []).append(name)
            continue
        part()
        print(name, round(ends - time.monotonic()), "s left", file=sys.stderr, flush=True)
    found.project(paper)
    settings = {"input": list(SIZE), "TFLOP an image": 3 * flops / 1e12}
    headline = min(
        (row for row in found.rows if row.what.startswith(f"train, batch {paper}")),
        key=lambda row: row.ours.median,
    )
    others = [row for row in found.rows if row is not headline]
    return Result("gpu", headline, others, facts=found.facts, settings=settings)


def _parts_of(batch: int, found: "Found", arguments: Arguments) -> dict[str, Callable[[], None]]:
    """What is measured for one batch size."""
    parts: dict[str, Callable[[], None]] = {}
    for compiled in (True, False) if batch in arguments.compiled else (False,):
        name = f"batch {batch}{' compiled' * compiled}"
        of = (found, batch, compiled, arguments)
        parts[f"training, {name}"] = functools.partial(_training, *of)
        if not compiled or batch == arguments.compiled[-1]:
            parts[f"validation, {name}"] = functools.partial(_validation, *of)
    return parts


def _training(found: "Found", batch: int, compiled: bool, arguments: Arguments) -> None:
    if batch not in found.plain:
        found.plain[batch] = plain_training(batch, arguments)
    found.training(batch, compiled, our_training(batch, compiled, arguments))


def _validation(found: "Found", batch: int, compiled: bool, arguments: Arguments) -> None:
    found.validation(batch, compiled, our_validation(batch, compiled, arguments))


@dataclass
class Found:
    """What was measured so far."""

    forward_s: float
    """An image's forward pass at the measured matrix rate; a training step takes three times it."""
    rows: list[Comparison] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    plain: dict[int | None, Rate] = field(default_factory=dict)
    """Training by batch size; validation under None."""
    best: dict[str, float] = field(default_factory=dict)
    """Least seconds an image, by what and batch."""

    def training(self, batch: int, compiled: bool, ours: Rate) -> None:
        """Take up a rate of training."""
        self._add("train", batch, compiled, ours, self.plain[batch], 3 * self.forward_s)

    def validation(self, batch: int | None, compiled: bool, rate: Rate | None) -> None:
        """Take up a rate of validation; without a batch, the plain one."""
        if rate is None:
            return
        if batch is None:
            self.plain[None] = rate
            return
        self._add("validate", batch, compiled, rate, self.plain.get(None), self.forward_s)

    def _add(
        self, what: str, batch: int, compiled: bool, ours: Rate, plainly: Rate | None, least: float
    ) -> None:
        name = f"{what}, batch {batch}{' compiled' * compiled}"
        self.facts[name] = line = {
            "images a second": round(1 / ours.seconds.median, 2),
            "share of the matrix rate": round(least / ours.seconds.median, 3),
            "GB": round(ours.memory_gb, 2),
            "s before the first": round(ours.first_s, 1),
        }
        print(name, line, file=sys.stderr, flush=True)
        self.rows.append(Comparison(
            name, "ms an image", ours.seconds.times(1e3),
            plainly.seconds.times(1e3) if plainly else None, 1e3 * least, "matrix rate",
        ))  # fmt: skip
        for key in (what, f"{what} {batch}"):
            self.best[key] = min(self.best.get(key, 1e9), ours.seconds.median)

    def project(self, paper: int) -> None:
        """The paper's study: its batch in training, the fastest of the measured in validation."""
        train, val = self.best.get(f"train {paper}"), self.best.get("validate")
        if train and val:
            self.facts["the paper's study, h"] = hours(train, val)
        if paper in self.plain and None in self.plain:
            seconds = [self.plain[key].seconds.median for key in (paper, None)]
            self.facts["the paper's study, h, plainly, if its loader kept up"] = hours(*seconds)


@user_command
def main() -> int:
    """Measure, print, record."""
    arguments = tyro.cli(Arguments, prog="python -m benchmarks.gpu", description=__doc__)
    if not torch.cuda.is_available():
        raise InputError("benchmarks.gpu", got="no CUDA device", expected="an NVIDIA GPU")
    report(measure(arguments), arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
