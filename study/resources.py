"""How many cells run at a time, and with what: arithmetic on cores, GPUs, memory and disk."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from cityseg.config import Config, Resources
from cityseg.errors import InputError
from cityseg.memory import (
    BASE_BYTES,
    WEIGHT_BYTES,
    average_bytes,
    host_bytes,
    parameters_of,
    training_bytes,
)

MOMENTS: Final = {"adam": 2, "adamw": 2, "sgd": 1}
"""Numbers that an optimiser keeps of a parameter; SGD none without momentum."""
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
        import torch  # slow to load, and refusals need none of it

        cores = len(psutil.Process().cpu_affinity() or [0])
        return Machine(cores, host_bytes(), torch.cuda.device_count())


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

    def describe(self, machines: Sequence[Machine]) -> str:
        """One line for the user."""
        device = f"{self.gpus:g} GPU, " if self.gpus else "CPU, "
        where = "here are" if len(machines) == 1 else f"{len(machines)} machines have"
        cores = sum(machine.cores for machine in machines)
        gpus = sum(machine.gpus for machine in machines)
        memory = sum(machine.memory_bytes for machine in machines)
        return (
            f"resources: {self.slots} of the cells at a time, each {device}{self.cpus} threads, "
            f"about {self.cell_memory_bytes / 1e9:.1f} GB; "
            f"{where} {cores} cores, {gpus} GPUs, {memory / 1e9:.1f} GB free"
        )


def allot(
    configs: Sequence[Config],
    cells: int,
    machines: Sequence[Machine],
    settled_cpus: int | None = None,
) -> Allotment:
    """Share machines among `cells` cells, finished ones included.

    With GPUs, as many at once as `resources.gpus_per_trial` lets on; without, as many as cores and
    memory allow, at least one. There the number of threads can move the last bit of a result, so
    that a continued study keeps the one it began with.

    Args:
        configs: of the study's rows: the base one first, then any that may take more memory.
        cells: in all.
        machines: what there is; GPUs are used if any machine has one.
        settled_cpus: threads a cell at the study's first start, if it had one.
    """
    wanted = configs[0].resources
    gpus = any(machine.gpus for machine in machines)
    if settled_cpus and not gpus and wanted.cpus_per_trial is None:
        wanted = wanted.model_copy(update={"cpus_per_trial": settled_cpus})
    memory = max(cell_memory_bytes(config, gpus) for config in configs)
    shares = [
        (machine, slots)
        for machine in machines
        if (slots := min(cells, _slots(machine, wanted, memory, gpus)))
    ] or [(max(machines, key=lambda machine: (machine.cores, machine.memory_bytes)), 1)]
    cpus = min(wanted.cpus_per_trial or machine.cores // slots for machine, slots in shares)
    most = max(machine.cores for machine, _ in shares)
    slots = min(cells, sum(slots for _, slots in shares))
    return Allotment(slots, max(1, min(cpus, most)), wanted.gpus_per_trial if gpus else 0, memory)


def _slots(machine: Machine, wanted: Resources, memory: int, gpus: bool) -> int:
    if gpus:
        return machine.gpus * math.floor(1 / wanted.gpus_per_trial)
    by_cores = machine.cores // (wanted.cpus_per_trial or 1)
    return min(by_cores, int(machine.memory_bytes * MEMORY_SHARE // memory))


def cell_memory_bytes(config: Config, on_gpu: bool) -> int:
    """Host memory of one cell: as configured, else estimated from network and input size."""
    if config.resources.memory_gb is not None:
        return int(config.resources.memory_gb * 1e9)
    if on_gpu:
        return int(2 * BASE_BYTES + state_bytes(config))
    return training_bytes(config)


def state_bytes(config: Config) -> int:
    """What a cell's saved state takes."""
    train = config.train
    plain = train.optimizer == "sgd" and not train.momentum
    moments = 0 if plain else MOMENTS[train.optimizer]
    return WEIGHT_BYTES * (1 + moments) * parameters_of(config) + average_bytes(config)


@dataclass(frozen=True)
class Disk:
    """What a study's cells take of the disk at most, in bytes."""

    states: int
    """Of the cells that run: each is written beside the old one before it replaces it."""
    weights: int
    """Best weights of the rows that keep theirs."""
    passing: int
    """Best weights of rows in progress, until they are ranked; each is written beside the old one,
    too."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.weights + self.passing

    def describe(self, keep: str) -> str:
        """One line for the user."""
        gigabytes = [
            f"{n / 1e9:.1f}" for n in (self.total, self.states, self.passing, self.weights)
        ]
        total, states, passing, weights = gigabytes
        return (
            f"disk: up to {total} GB: {states} states and {passing} best weights of what runs, "
            f"{weights} best weights that are kept ({keep} of the rows)"
        )


def disk_of(configs: Sequence[Config], keep: float, rows: int, folds: int, slots: int) -> Disk:
    """Disk for `rows` unfinished rows of `folds` cells, of which `keep` keep their weights.

    The folds of a row are taken to end one after another, so that no more than one row has all but
    its last fold done.
    """
    parameters = max(parameters_of(config) for config in configs)
    running = min(rows * folds, slots)
    kept = int(min(keep, rows)) * folds
    passing = min(rows * folds - kept, folds - 1 + running) + running
    return Disk(
        2 * max(state_bytes(config) for config in configs) * running,
        WEIGHT_BYTES * parameters * kept,
        WEIGHT_BYTES * parameters * passing,
    )


def check_disk(folder: Path, disk: Disk, keep: str) -> None:
    """Refuse to start a study that its disk cannot hold.

    Raises:
        InputError: with the sum.
    """
    free = shutil.disk_usage(folder).free
    if free < disk.total:
        raise InputError(
            f"disk of {folder}",
            got=f"{free / 1e9:.1f} GB free",
            expected=disk.describe(keep).removeprefix("disk: up to "),
            remedy="free some, give another folder by --results, or keep less by --keep-weights",
        )
