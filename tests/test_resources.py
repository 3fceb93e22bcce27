"""Sharing machines among cells: cores, GPUs, memory and disk, by hand."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cityseg.config import Config, load, parse, shipped
from cityseg.errors import InputError
from cityseg.memory import parameters_of
from study.resources import Disk, Machine, allot, check_disk, disk_of

GB = 10**9
SMALL = parse({"resources": {"memory_gb": 1}}, "test")
PARAMETERS = 222_985_043
"""Of the paper's network."""


def one(cores: int, memory_gb: float, gpus: int) -> list[Machine]:
    return [Machine(cores, int(memory_gb * GB), gpus)]


def test_a_cell_of_the_papers_model_takes_about_five_gigabytes_on_a_cpu():
    demo_size = parse({"data": {"input_size": [64, 128]}}, "test")
    allotment = allot([demo_size], 3, one(2, 24, 0))
    assert allotment.cell_memory_bytes == pytest.approx(5e9, rel=0.1)


def test_the_row_that_takes_most_memory_counts():
    small = parse({"data": {"input_size": [64, 128]}}, "test")
    large = parse({"data": {"input_size": [64, 128]}, "train": {"batch_size": 64}}, "test")
    both = allot([small, large], 9, one(8, 100, 0)).cell_memory_bytes
    assert both == allot([large], 9, one(8, 100, 0)).cell_memory_bytes
    assert both - allot([small], 9, one(8, 100, 0)).cell_memory_bytes == 62 * 64 * 128 * 8000


def test_memory_limits_the_cells_at_a_time():
    config = parse({"resources": {"memory_gb": 5}}, "test")
    assert allot([config], 3, one(16, 12, 0)).slots == 2
    assert allot([config], 3, one(16, 3, 0)).slots == 1


def test_cores_are_shared_evenly():
    assert allot([SMALL], 3, one(2, 24, 0)).cpus == 1
    assert allot([SMALL], 3, one(16, 24, 0)).cpus == 5


def test_a_continued_study_keeps_its_threads_though_memory_went():
    begun = allot([SMALL], 3, one(4, 24, 0))
    assert (begun.slots, begun.cpus) == (3, 1)
    squeezed = one(4, 1.5, 0)
    assert allot([SMALL], 3, squeezed).cpus == 4
    continued = allot([SMALL], 3, squeezed, settled_cpus=begun.cpus)
    assert (continued.slots, continued.cpus) == (1, 1)
    chosen = parse({"resources": {"memory_gb": 1, "cpus_per_trial": 2}}, "test")
    assert allot([chosen], 3, squeezed, settled_cpus=1).cpus == 2


@pytest.mark.parametrize(
    ("share", "slots"), [(1.0, 2), (0.5, 4), (0.34, 4), (0.33, 6), (0.6, 2), (0.1, 20)]
)
def test_gpus_limit_the_cells_at_a_time(share: float, slots: int):
    config = parse({"resources": {"gpus_per_trial": share}}, "test")
    allotment = allot([config], 60, one(32, 200, 2))
    assert (allotment.slots, allotment.gpus) == (slots, share)


def test_machines_are_summed_up_and_the_weakest_gives_the_threads():
    machines = [*one(16, 64, 0), *one(4, 64, 0), *one(2, 0.5, 0)]
    allotment = allot([SMALL], 100, machines)
    assert (allotment.slots, allotment.cpus) == (16 + 4, 1), "the third has no memory for any"
    allotment = allot([SMALL], 2, machines)
    assert (allotment.slots, allotment.cpus) == (2, 2), "two threads for each of two on 4 cores"


def test_machines_without_a_gpu_are_left_out_where_another_has_one():
    machines = [*one(64, 500, 0), *one(12, 64, 1), *one(8, 64, 2)]
    packed = parse({"resources": {"gpus_per_trial": 0.33}}, "test")
    allotment = allot([packed], 100, machines)
    assert (allotment.slots, allotment.gpus, allotment.cpus) == (3 * 3, 0.33, 8 // 6)
    assert allot([packed], 4, machines).slots == 4


def test_where_nothing_fits_the_largest_machine_tries_one():
    config = parse({"resources": {"memory_gb": 500, "cpus_per_trial": 32}}, "test")
    allotment = allot([config], 9, [*one(2, 4, 0), *one(16, 32, 0)])
    assert (allotment.slots, allotment.cpus) == (1, 16)


def test_what_a_cell_gets_is_told_with_what_there_is():
    told = allot([SMALL], 9, one(4, 8.25, 0)).describe(one(4, 8.25, 0))
    assert told == (
        "resources: 4 of the cells at a time, each CPU, 1 threads, about 1.0 GB; "
        "here are 4 cores, 0 GPUs, 8.2 GB free"
    )
    machines = one(8, 64, 1) * 2
    told = allot([parse({"resources": {"gpus_per_trial": 0.5}}, "test")], 9, machines).describe(
        machines
    )
    assert "4 of the cells at a time, each 0.5 GPU, 4 threads" in told
    assert "2 machines have 16 cores, 2 GPUs, 128.0 GB free" in told


MACHINES = st.lists(
    st.builds(Machine, st.integers(1, 128), st.integers(1, 500).map(lambda n: n * GB),
              st.integers(0, 8)),
    min_size=1, max_size=4,
)  # fmt: skip


@given(cells=st.integers(1, 60), machines=MACHINES, wanted=st.none() | st.integers(1, 256))
def test_something_always_runs_and_nothing_is_oversubscribed(
    cells: int, machines: list[Machine], wanted: int | None
):
    config = parse({"resources": {"cpus_per_trial": wanted, "memory_gb": 5}}, "test")
    allotment = allot([config], cells, machines)
    assert 1 <= allotment.slots <= cells
    assert 1 <= allotment.cpus <= max(machine.cores for machine in machines)
    if not any(machine.gpus for machine in machines):
        fitting = [m.cores // allotment.cpus for m in machines]
        assert allotment.slots <= sum(fitting)
        by_memory = sum(m.memory_bytes // (5 * GB) for m in machines)
        assert allotment.slots == 1 or allotment.slots <= by_memory


def test_disk_of_three_folds_in_two_slots_by_hand():
    assert parameters_of(Config()) == PARAMETERS
    disk = disk_of([Config()], keep=1, rows=1, folds=3, slots=2)
    assert disk.states == PARAMETERS * 2 * 24  # old and new beside each other
    assert disk.weights == PARAMETERS * 3 * 4  # all three folds of the only row
    assert disk.passing == PARAMETERS * 2 * 4  # the next best is written beside the old
    assert disk.total == PARAMETERS * (48 + 12 + 8)


@pytest.mark.parametrize(
    ("train", "numbers"),
    [
        ({"optimizer": "adamw"}, 3),
        ({"optimizer": "sgd"}, 2),
        ({"optimizer": "sgd", "momentum": 0}, 1),
        ({"optimizer": "sgd", "ema_decay": 0.9}, 3),
    ],
)
def test_a_saved_state_is_of_what_the_optimiser_keeps(train: dict[str, object], numbers: int):
    config = parse({"train": train}, "test")
    disk = disk_of([config], keep=1, rows=1, folds=3, slots=2)
    assert disk.states == PARAMETERS * 2 * 2 * 4 * numbers  # old and new, of two cells


@pytest.mark.parametrize("name", ["paper", "deeper", "vanilla"])
def test_the_head_of_a_recipe_names_the_disk_that_a_start_demands(name: str):
    path = shipped(f"{name}.yaml")
    said = re.search(r"(\d+) GB of disk while three folds run", path.read_text())
    disk = disk_of([load(path)], keep=1, rows=1, folds=3, slots=3)
    assert said is not None and int(said[1]) == math.ceil(disk.total / 1e9)


@pytest.mark.parametrize(
    ("keep", "weights", "passing"),
    [
        (math.inf, 60, 4),  # all: 20 rows of 3; 4 written anew
        (1, 3, 2 + 4 + 4),  # 2 folds done of a row, 4 at work, these 4 written anew
        (5, 15, 2 + 4 + 4),
        (0, 0, 2 + 4 + 4),
        (19, 57, 3 + 4),  # no more than the cells that there are
    ],
)
def test_disk_of_many_rows_by_hand(keep: float, weights: int, passing: int):
    disk = disk_of([Config()], keep, rows=20, folds=3, slots=4)
    assert (disk.weights, disk.passing) == (PARAMETERS * 4 * weights, PARAMETERS * 4 * passing)
    assert disk.states == PARAMETERS * 4 * 24


def test_disk_is_of_the_largest_network_and_of_the_rows_that_are_left():
    small = parse({"model": {"decoder_width": 0.25}}, "test")
    assert disk_of([small, Config()], 1, 2, 3, 2) == disk_of([Config()], 1, 2, 3, 2)
    assert disk_of([small], 1, 2, 3, 2).total < disk_of([Config()], 1, 2, 3, 2).total / 3
    assert disk_of([Config()], 1, 0, 3, 2).total == 0


def test_a_full_disk_is_refused_with_the_sum(tmp_path: Path):
    check_disk(tmp_path, Disk(1, 1, 1), "best")
    with pytest.raises(InputError) as refused:
        check_disk(tmp_path, Disk(2 * 10**15, 10**15, 10**15), "top-3")
    message = str(refused.value)
    assert message.startswith(f"disk of {tmp_path}: got ") and "\n" not in message
    assert (
        "expected 4000000.0 GB: 2000000.0 states and 1000000.0 best weights of what runs, "
        "1000000.0 best weights that are kept (top-3 of the rows); free some, give another folder "
        "by --results, or keep less by --keep-weights"
    ) in message
