"""What a sample costs on one core: decoded from PNG files the plain way, and from our cache.

    python -m benchmarks.data

The frames lie in the page cache, as they do in a study from its second epoch on, where memory holds
them. Also shown: that samples from the cache are albumentations' to the bit; how far the cheaper
single warp is from them, which is why it is not used; and what a loader delivers beside what a
training step can take.
"""

import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import tyro
from jaxtyping import UInt8
from torch.utils.data import Dataset

from benchmarks.measure import (
    Comparison,
    Options,
    Result,
    Timing,
    alternate,
    computed,
    copy_rate,
    decode_seconds,
    frames_of,
    matmul_rate,
    report,
    step_flops,
    threads,
)  # fmt: skip
from benchmarks.plain import PlainFrames
from cityseg.augment import Sample, ScaleToSize
from cityseg.cache import BYTES_A_PIXEL, FrameCache, Pixels, Reader, ensure
from cityseg.config import Config, Data, Train
from cityseg.data import Frame, image_size, read_frame
from cityseg.errors import user_command
from cityseg.labels import IGNORE
from cityseg.model import build_unet
from cityseg.samples import TrainSamples, ValSamples, train_loader

MS = 1e3


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """What a sample costs on one core: decoded the plain way, and from our cache."""

    frames: int = 8
    """Frames that samples are made of."""
    height: int = 1024
    """Of the embedded city's frames, in pixels; they are twice as wide."""
    size: tuple[int, int] = (512, 1024)
    """Input size, height and width."""
    n: int = 20
    """Timings of each way, in turns."""
    block: int = 4
    """Samples a timing: a sample with colour jitter costs more than one without."""
    draws: int = 60
    """Random samples that are compared with albumentations' three steps."""
    loader_samples: int = 96
    """Samples that a loader is timed by."""
    workers: tuple[int, ...] = (1, 2)
    """Worker processes of the loaders."""
    gpu_tflops: float = 790.0
    """bfloat16 matmul rate of a GPU, for which the cores that feed it are reckoned: an H100's."""
    gpu_share: float = 0.5
    """Share of that rate that training may reach."""


def measure(options: DataOptions) -> Result:
    """All of it, on one core but for the loaders' workers."""
    frames = frames_of(options.data, options.frames, options.height)
    config = Config(data=Data(input_size=options.size), train=Train(batch_size=2))
    with threads(1), tempfile.TemporaryDirectory(prefix="cityseg-cache-") as folder:
        cache, build = build_cache(frames, Path(folder))
        rows = compare(frames, cache, config, options)
        warp = single_warp(frames, cache, config, options.draws)
        facts = {
            "largest difference from albumentations' three steps, grey levels or labels": (
                largest_difference(frames, cache, config, options.draws)
            ),
            "of draws": options.draws,
            "a single warp instead": warp,
            "cache built, MB/s": frame_bytes(frames) / 1e6 / (build.ours.median / MS),
            "a mapped frame found, ms": found(frames, cache).times(MS).median,
        }
        loaders = loader_rates(frames, cache, config, options)
    return Result(
        name="data",
        headline=rows[0],
        rows=[*rows[1:], build],
        facts={**facts, **needs(rows[0], config, options)},
        tables={"loader": loaders},
        settings={
            "frames": len(frames),
            "source": list(image_size(frames[0].image)),
            "input": list(options.size),
            "threads": 1,
            "samples a timing": options.block,
        },
    )


def build_cache(frames: list[Frame], folder: Path, n: int = 3) -> tuple[FrameCache, Comparison]:
    """A cache, built several times anew by one process; and what a frame takes."""
    built: list[FrameCache] = []
    seconds: list[float] = []
    for i in range(n):
        started = time.perf_counter()
        built.append(ensure(frames, folder / str(i), processes=1))
        seconds.append((time.perf_counter() - started) / len(frames))
    decode = decode_seconds(frames, 2 * len(frames)).median
    row = Comparison(
        "build the cache, a frame", "ms", Timing.of(seconds).times(MS), None,
        decode * MS, "its decoding",
    )  # fmt: skip
    return built[-1], row


def compare(
    frames: list[Frame], cache: FrameCache, config: Config, options: DataOptions
) -> list[Comparison]:
    """Samples of each kind and the mere reading of a frame; the training sample first."""
    pairs = [(frame.image, frame.label) for frame in frames]
    plain_train, plain_val = (
        passes(PlainFrames(pairs, options.size, train), range(len(pairs)), options.block)
        for train in (True, False)
    )
    keys = [(epoch, i) for epoch in range(1, 100) for i in range(len(frames))]
    train, png = (
        passes(TrainSamples(frames, config, read), keys, options.block)
        for read in (cache, read_frame)
    )
    val = passes(ValSamples(frames, config, cache), range(len(frames)), options.block)
    times = alternate(
        {
            "plain train": plain_train, "train": train, "png": png,
            "plain val": plain_val, "val": val,
            "read": reads(frames, lambda frame: tuple(map(np.array, cache(frame))), options.block),
            "plain read": reads(frames, read_frame, options.block),
        },
        options.n,
    )  # fmt: skip
    a_sample = {name: timing.times(MS / options.block) for name, timing in times.items()}
    size = frame_bytes(frames)
    copy = size / copy_rate(size=size, n=50) * MS
    decode = decode_seconds(frames, options.n * 2).median * MS
    copied, decoded = (copy, "copy of the frame"), (decode, "decoding alone")
    return [
        Comparison("training sample", "ms", a_sample["train"], a_sample["plain train"], *copied),
        Comparison(
            "training sample, ours from PNG", "ms", a_sample["png"], a_sample["plain train"],
            *decoded,
        ),
        Comparison("validation sample", "ms", a_sample["val"], a_sample["plain val"], *copied),
        Comparison(
            "frame and labels into memory", "ms", a_sample["read"], a_sample["plain read"], *copied
        ),
    ]  # fmt: skip


def passes(samples: Dataset[Any], keys: Sequence[Any], block: int) -> Callable[[], None]:
    """A call that makes the next few samples, round and round."""
    endless = itertools.cycle(keys)

    def call() -> None:
        for key in itertools.islice(endless, block):
            samples[key]

    return call


def reads(frames: list[Frame], read: Callable[[Frame], object], block: int) -> Callable[[], None]:
    """A call that reads the next few frames."""
    endless = itertools.cycle(frames)

    def call() -> None:
        for frame in itertools.islice(endless, block):
            read(frame)

    return call


def found(frames: list[Frame], cache: FrameCache, n: int = 200) -> Timing:
    """Seconds until a frame's arrays are there; no pixel is touched."""
    times = alternate({"found": reads(frames, cache, 1)}, n)
    return times["found"]


def frame_bytes(frames: list[Frame]) -> int:
    """Of the first frame's pixels and labels."""
    height, width = image_size(frames[0].image)
    return BYTES_A_PIXEL * height * width


def largest_difference(frames: list[Frame], cache: Reader, config: Config, draws: int) -> int:
    """Between our samples from the cache and albumentations' from the PNG files; 0 if all agree."""
    samples = TrainSamples(frames, config, cache)
    largest = 0
    for i, epoch in indices(frames, draws):
        pixels = read_frame(frames[i])
        theirs = three_steps(pixels, config.data, (config.seed, epoch, i))
        image, target = (tensor.numpy() for tensor in samples[epoch, i])
        for one, other in zip((image, target), theirs, strict=True):
            largest = max(largest, int(np.abs(one.astype(int) - other.astype(int)).max()))
    return largest


def indices(frames: list[Frame], draws: int) -> Iterator[tuple[int, int]]:
    """So many pairs of frame and epoch."""
    return ((draw % len(frames), 1 + draw // len(frames)) for draw in range(draws))


def three_steps(pixels: Pixels, data: Data, draw: tuple[int, int, int]) -> Sample:
    """The paper's augmentation in albumentations' own steps, with the draws of ours."""
    image, target = pixels
    augment = data.augment
    colours = [augment.brightness, augment.contrast, augment.saturation, augment.hue]
    compose = A.Compose([
        A.RandomScale(augment.scale, p=1),
        A.PadIfNeeded(*target.shape, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE),
        A.Resize(*data.input_size),
        A.HorizontalFlip(p=augment.flip),
        A.ColorJitter(*colours, p=augment.jitter),
    ])  # fmt: skip
    key = np.random.SeedSequence(draw)
    compose.set_random_state(
        np.random.default_rng(key), random.Random(key.generate_state(4).tobytes())
    )
    changed = compose(image=image, mask=target)
    return changed["image"], changed["mask"]


def single_warp(
    frames: list[Frame], cache: FrameCache, config: Config, draws: int
) -> dict[str, float]:
    """How one resampling from source to input size differs from the paper's two, and its time."""
    factors = np.random.default_rng(config.seed).uniform(
        1 - config.data.augment.scale, 1 + config.data.augment.scale, draws
    )
    grey: list[float] = []
    labels: list[float] = []
    for (i, _), factor in zip(indices(frames, draws), factors, strict=True):
        pixels = cache(frames[i])
        ours = scaled(pixels, float(factor), config.data)
        image, target = warped(pixels, float(factor), config.data.input_size)
        grey.append(float(np.abs(image.astype(int) - ours[0].astype(int)).mean()))
        labels.append(float((target != ours[1]).mean()))
    pixels, size = cache(frames[0]), config.data.input_size
    times = alternate(
        {
            "ms": lambda: warped(pixels, 0.9, size),
            "ms of ours": lambda: scaled(pixels, 0.9, config.data),
        },
        20,
    )
    return {
        "mean absolute difference, grey levels": float(np.mean(grey)),
        "share of labels that differ": float(np.mean(labels)),
        **{name: timing.median * MS for name, timing in times.items()},
    }


def scaled(pixels: Pixels, factor: float, data: Data) -> Sample:
    """Our scale, pad and resize, with a given factor."""
    image, target = pixels
    step = ScaleToSize(data.augment.scale, (target.shape[0], target.shape[1]), data.input_size)
    return step.apply(image, factor), step.apply_to_mask(target, factor)


def warped(
    pixels: Pixels, factor: float, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Scale, pad and resize as one affine map from the source to the input size."""
    image, target = pixels
    rows = [
        source_of(side, int(side * factor), wanted)
        for side, wanted in zip(target.shape, size, strict=True)
    ]
    (ay, by), (ax, bx) = rows
    back = np.array([[ax, 0, bx], [0, ay, by]])
    out, border = size[::-1], cv2.BORDER_CONSTANT
    bilinear, nearest = (
        how | cv2.WARP_INVERSE_MAP for how in (cv2.INTER_LINEAR, cv2.INTER_NEAREST)
    )
    return (
        cv2.warpAffine(image, back, out, flags=bilinear, borderMode=border, borderValue=(0, 0, 0)),
        cv2.warpAffine(target, back, out, flags=nearest, borderMode=border, borderValue=IGNORE),
    )  # pyright: ignore[reportReturnType] # OpenCV's stubs know no dtype


def source_of(side: int, scaled: int, wanted: int) -> tuple[float, float]:
    """Slope and offset from a pixel's place after the resize to its place in the source.

    Pixels are squares: their centres lie at halves.
    """
    padded = max(side, scaled)
    before = (padded - scaled) // 2
    slope = padded / wanted * side / scaled
    offset = ((0.5 * padded / wanted) - before) * side / scaled - 0.5
    return slope, offset


def loader_rates(
    frames: list[Frame], cache: FrameCache, config: Config, options: DataOptions
) -> list[dict[str, Any]]:
    """Samples/s of loaders with so many worker processes, after they have started."""
    rows: list[dict[str, Any]] = []
    passed = max(1, options.loader_samples // len(frames))
    for workers in options.workers:
        loader, batches = train_loader(frames, config, workers, pin=False, read=cache)
        rates: list[float] = []
        for batches.epoch in range(1, passed + 2):
            started = time.perf_counter()
            count = sum(len(batch.image) for batch in loader)
            rates.append(count / (time.perf_counter() - started))
        timing = Timing.of(rates[1:])
        rows.append({
            "worker processes": workers, "samples/s": timing.median,
            "low": timing.low, "high": timing.high, "passes": timing.n,
        })  # fmt: skip
    return rows


def needs(sample: Comparison, config: Config, options: DataOptions) -> dict[str, float]:
    """What training steps of the paper's network can take at most, here and on a GPU."""
    assert sample.plain is not None
    flops = step_flops(build_unet, 1, config.data.input_size)
    here = max(matmul_rate(dtype, n=3) for dtype in computed().values()) / flops
    gpu = options.gpu_share * options.gpu_tflops * 1e12 / flops
    return {
        "samples/s that a training step here takes at the matmul rate of all cores": here,
        f"samples/s that a GPU takes at {options.gpu_share:g} of {options.gpu_tflops:g} TFLOP/s": (
            gpu
        ),
        "cores that feed it, ours": gpu * sample.ours.median / MS,
        "cores that feed it, plain": gpu * sample.plain.median / MS,
    }


@user_command
def main() -> int:
    """Run the command line."""
    options = tyro.cli(DataOptions, prog="python -m benchmarks.data")
    report(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
