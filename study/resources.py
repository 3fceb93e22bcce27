"""How many cells run at a time, and with what: arithmetic on cores, GPUs, memory and disk."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import torch

from cityseg.config import Config
from cityseg.errors import InputError
from cityseg.model import build_unet, count_parameters

TRAINING_BYTES: Final = 16
"""A parameter in float32 training: value, gradient and Adam's two moments."""
STATE_BYTES: Final = 12
"""A parameter in a saved state: value and two moments."""
WEIGHT_BYTES: Final = 4
BASE_BYTES: Final = 1.2e9
"""Python, torch and one cell's data loading, resident."""
ACTIVATION_BYTES: Final = 8e3
"""Of one input pixel, kept for the backward pass; measured with ResNet-50 at width 1."""
MEMORY_SHARE: Final = 0.9
"""Of the memory that is free at the start: the rest is for Ray and the system."""


@dataclass(frozen=True)
class Machine:
    """What there is."""

    cores: int
    memory_bytes: int
    """Available now."""
    gpus: int

    @staticmethod
    def here() -> "Machine":
        """This machine."""
        cores = len(psutil.Process().cpu_affinity() or [0])
        return Machine(cores, psutil.virtual_memory().available, torch.cuda.device_count())


@dataclass(frozen=True)
class Allotment:
    """How a study's cells share the machine."""

    slots: int
    """Cells that run at one time."""
    cpus: int
    """CPU threads of one cell."""
    gpus: float
    """GPUs of one cell; 0 on a machine without."""
    cell_memory_bytes: int
    """Host memory that one cell is expected to take."""

    def describe(self, machine: Machine) -> str:
        """One line for the user."""
        device = f"{self.gpus:g} GPU, " if self.gpus else "CPU, "
        return (
            f"resources: {self.slots} of the cells at a time, each {device}{self.cpus} threads, "
            f"about {self.cell_memory_bytes / 1e9:.1f} GB; "
            f"here are {machine.cores} cores, {machine.gpus} GPUs, "
            f"{machine.memory_bytes / 1e9:.1f} GB free"
        )


def allot(
    config: Config, cells: int, machine: Machine, settled_cpus: int | None = None
) -> Allotment:
    """Share a machine among `cells` cells, finished ones included.

    With GPUs, as many at once as `resources.gpus_per_trial` lets on; without, as many as cores and
    memory allow, at least one. There the number of threads can move the last bit of a result, so
    that a continued study keeps the one it began with.

    Args:
        config: of the study.
        cells: in all.
        machine: what there is.
        settled_cpus: threads a cell at the study's first start, if it had one.
    """
    wanted = config.resources
    if settled_cpus and not machine.gpus and wanted.cpus_per_trial is None:
        wanted = wanted.model_copy(update={"cpus_per_trial": settled_cpus})
    memory = cell_memory_bytes(config, on_gpu=machine.gpus > 0)
    if machine.gpus:
        most = machine.gpus * math.floor(1 / wanted.gpus_per_trial)
    else:
        by_cores = machine.cores // (wanted.cpus_per_trial or 1)
        most = min(by_cores, int(machine.memory_bytes * MEMORY_SHARE // memory))
    slots = max(1, min(cells, most))
    cpus = min(wanted.cpus_per_trial or machine.cores // slots, machine.cores)
    return Allotment(slots, max(1, cpus), wanted.gpus_per_trial if machine.gpus else 0, memory)


def cell_memory_bytes(config: Config, on_gpu: bool) -> int:
    """Host memory of one cell: as configured, else estimated from network and input size."""
    if config.resources.memory_gb is not None:
        return int(config.resources.memory_gb * 1e9)
    parameters = parameters_of(config)
    if on_gpu:
        return int(2 * BASE_BYTES + STATE_BYTES * parameters)
    height, width = config.data.input_size
    pixels = height * width * max(config.train.batch_size, config.evaluate.batch_size)
    return int(BASE_BYTES + TRAINING_BYTES * parameters + ACTIVATION_BYTES * pixels)


def parameters_of(config: Config) -> int:
    """Trainable values of the configuration's network; nothing is allocated."""
    with torch.device("meta"):
        return count_parameters(build_unet(config.model.encoder, config.model.decoder_width))


def disk_bytes(config: Config, cells: int, slots: int) -> int:
    """Disk that unfinished cells will take at most: best weights of all, states of the running.

    A state, and a best one, is written beside the old one before it replaces it.
    """
    parameters = parameters_of(config)
    running = min(cells, slots)
    return parameters * (WEIGHT_BYTES * (cells + running) + 2 * STATE_BYTES * running)


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to start a study that its disk cannot hold.

    Raises:
        InputError: with the sum.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"disk of {folder}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{needed / 1e9:.1f} GB for states and best weights",
            remedy="free some, or give another folder by --results",
        )
