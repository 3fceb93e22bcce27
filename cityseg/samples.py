"""Samples and batches for the network, each a pure function of (seed, epoch, position)."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cityseg.cache import Reader
from cityseg.census import Census
from cityseg.config import Config
from cityseg.data import Frame, read_frame
from cityseg.errors import InputError, TransientError
from cityseg.inputs import TrainBatch, ValBatch, resized

SHUFFLE_STREAM: Final = 2**32 - 1
"""Stands where a sample's index would: the order of an epoch has a random stream of its own."""

CHOICE_STREAM: Final = 1
"""Stands behind a sample's index: which frame it shows has a random stream of its own."""


Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Loader(Generic[Batch]):
    """Batches, pass after pass; an input error in a worker arrives as it was raised."""

    source: DataLoader[Any]
    names: Callable[[int], list[str]]
    """Of the frames in a batch, counted from 0 in this pass."""

    @property
    def processes(self) -> int:
        """That make batches: workers, or the one that asks for them."""
        return max(1, self.source.num_workers)

    def __iter__(self) -> Iterator[Batch]:
        arrived = 0
        try:
            for batch in self.source:
                yield batch
                arrived += 1
        except InputError as error:
            # torch raises the worker's whole traceback as the message of a new error
            raise InputError(str(error).rpartition("InputError: ")[2]) from None
        except RuntimeError as error:
            fault = self._fault(str(error), arrived)
            if fault is None:
                raise
            raise TransientError(fault) from None

    def _fault(self, said: str, batch: int) -> str | None:
        """What torch says of a worker that hangs or was killed; None for other errors."""
        if "DataLoader" not in said or said.startswith("Caught "):
            return None  # the latter: an error in a worker, not of one
        workers, names = self.source.num_workers, ", ".join(self.names(batch))
        if "timed out" in said:
            return (
                f"data worker {batch % workers + 1} of {workers} hangs at {names}: no batch for "
                f"{self.source.timeout:g} s (resources.worker_timeout_s)"
            )
        if "shared memory" in said:  # torch supposes so where SIGBUS killed it
            where = "/dev/shm"  # nosec B108 # a word to the user, nothing is written
            how = f"{where} is full; make it larger, or set resources.workers=0"
        else:
            how = (re.search(r"killed by signal: \w+", said) or ["it exited unexpectedly"])[0]
        return f"a data worker was lost while {names} were waited for: {how}"


@dataclass(frozen=True)
class Choice:
    """What a sample shows."""

    frame: int
    """Index of the frame."""
    label: int | None
    """Train id that is to be in the crop; None for any."""


Choose = Callable[[int, int], Choice]
"""What the sample of (epoch, index) shows."""


def choice_of(config: Config, census: Census | None) -> Choose:
    """As configured: frame by frame, or partly class by class."""
    share = config.data.augment.crop.class_uniform
    if not share:
        return lambda epoch, i: Choice(i, None)
    assert census is not None, "class-uniform crops want the census of the training part"
    return ClassUniform(census, share, config.seed)


class ClassUniform:
    """A share of the samples shows a class, each as likely as another, on a frame that holds it.

    Zhu et al. 2019, section 3.2.
    """

    def __init__(self, census: Census, share: float, seed: int):
        self.holders = {int(c): np.flatnonzero(census[:, c]) for c in np.flatnonzero(census.any(0))}
        self.share = share
        self.seed = seed

    def __call__(self, epoch: int, i: int) -> Choice:
        """Frame and class, drawn from (seed, epoch, index)."""
        random = np.random.default_rng((self.seed, epoch, i, CHOICE_STREAM))
        if random.random() >= self.share or not self.holders:
            return Choice(i, None)
        label = int(random.choice(list(self.holders)))
        return Choice(int(random.choice(self.holders[label])), label)


class TrainSamples(Dataset[tuple[Tensor, Tensor]]):
    """Augmented samples, addressed by (epoch, index)."""

    def __init__(
        self, frames: list[Frame], config: Config, read: Reader, census: Census | None = None
    ):
        self.frames = frames
        self.choose = choice_of(config, census)
        self.read = read
        self.seed = config.seed
        from cityseg.augment import TrainTransform  # a second, and only training needs it

        self.transform = TrainTransform(config.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, i = key
        choice = self.choose(epoch, i)
        image, target = self.read(self.frames[choice.frame])
        image, target = self.transform(image, target, (self.seed, epoch, i), choice.label)
        return torch.from_numpy(image), torch.from_numpy(target)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[TrainBatch]:
        """What the loader asks for, which wants a list: one batch, and how long it took."""
        started = time.perf_counter()
        images, targets = zip(*(self[key] for key in keys), strict=True)
        image, target = _channels_first(images), torch.stack(targets)
        return [TrainBatch(image, target, time.perf_counter() - started)]


class ValSamples(Dataset[tuple[str, Tensor, Tensor, Tensor]]):
    """What the network sees of a frame, its resized labels, and its full-size labels."""

    def __init__(self, frames: list[Frame], config: Config, read: Reader):
        self.frames = frames
        self.read = read
        self.size = config.data.input_size
        self.native = config.inference.input == "native"

    def __getitem__(self, i: int) -> tuple[str, Tensor, Tensor, Tensor]:
        frame = self.frames[i]
        source, full = self.read(frame)
        image, target = resized(source, full, self.size)
        seen = torch.from_numpy(source if self.native else image)
        return frame.name, seen, torch.from_numpy(target), torch.from_numpy(full)

    def __len__(self) -> int:
        return len(self.frames)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in an order drawn from (seed, epoch); a short last one is dropped.

    A single sample would give batch normalisation nothing to normalise by.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 1

    @property
    def first_step(self) -> int:
        """The epoch's first step, counted from 0 over the whole training."""
        return (self.epoch - 1) * len(self)

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.order(self.epoch)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, int(i)) for i in order[start : start + self.batch_size]]

    def order(self, epoch: int) -> np.ndarray:
        """Sample indices of an epoch in the order they are trained on."""
        return np.random.default_rng((self.seed, epoch, SHUFFLE_STREAM)).permutation(self.count)

    def indices(self, epoch: int, step: int) -> list[int]:
        """Sample indices of one step (from 0) of an epoch."""
        start = step * self.batch_size
        return [int(i) for i in self.order(epoch)[start : start + self.batch_size]]


def train_loader(
    frames: list[Frame],
    config: Config,
    workers: int,
    pin: bool,
    read: Reader = read_frame,
    census: Census | None = None,
) -> tuple[Loader[TrainBatch], EpochBatches]:
    """Loader of training batches, and its sampler, whose `epoch` is set before each pass.

    A batch is that of one step of the optimiser.
    """
    batches = EpochBatches(len(frames), config.train.step_size, config.seed)
    samples = TrainSamples(frames, config, read, census)
    loader = DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_the_batch,
        pin_memory=pin,
        persistent_workers=workers > 0,
        timeout=config.resources.worker_timeout_s if workers else 0,
        generator=_of_its_own(),
    )

    def names(step: int) -> list[str]:
        choices = (samples.choose(batches.epoch, i) for i in batches.indices(batches.epoch, step))
        return [frames[choice.frame].name for choice in choices]

    return Loader(loader, names), batches


def val_loader(
    frames: list[Frame], config: Config, workers: int, pin: bool, read: Reader = read_frame
) -> Loader[ValBatch]:
    """Loader of validation batches, in the frames' order.

    Frames that are seen at their own sizes come one at a time: these may differ.
    """
    batch_size = 1 if config.inference.input == "native" else config.evaluate.batch_size
    loader = DataLoader(
        ValSamples(frames, config, read),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate_val,
        pin_memory=pin,
        persistent_workers=workers > 0,
        timeout=config.resources.worker_timeout_s if workers else 0,
        generator=_of_its_own(),
    )

    def names(step: int) -> list[str]:
        start = step * batch_size
        return [frame.name for frame in frames[start : start + batch_size]]

    return Loader(loader, names)


def _of_its_own() -> torch.Generator:
    """What a loader draws its workers' seeds from, which nothing here uses.

    By default that is torch's own generator, once for every start of its workers: dropout would be
    drawn otherwise by a training that was continued than by one that was not.
    """
    return torch.Generator()


def _the_batch(made: list[TrainBatch]) -> TrainBatch:
    return made[0]


def _collate_val(samples: list[tuple[str, Tensor, Tensor, Tensor]]) -> ValBatch:
    names, images, targets, full_targets = zip(*samples, strict=True)
    image, target = _channels_first(images), torch.stack(targets)
    return ValBatch(list(names), image, target, list(full_targets))


def _channels_first(images: Sequence[Tensor]) -> Tensor:
    """One batch of images; in memory, a pixel's channels stay side by side."""
    return torch.stack(list(images)).permute(0, 3, 1, 2)
