"""Sharing a machine among cells."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cityseg.config import Config, parse
from cityseg.errors import InputError
from study.resources import Machine, allot, check_disk, disk_bytes, parameters_of

GB = 10**9
SMALL = parse({"resources": {"memory_gb": 1}}, "test")


def test_a_cell_of_the_papers_model_takes_about_five_gigabytes_on_a_cpu():
    demo_size = parse({"data": {"input_size": [64, 128]}}, "test")
    assert allot(demo_size, 3, Machine(2, 24 * GB, 0)).cell_memory_bytes == pytest.approx(
        5e9, rel=0.1
    )


def test_memory_limits_the_cells_at_a_time():
    config = parse({"resources": {"memory_gb": 5}}, "test")
    assert allot(config, 3, Machine(cores=16, memory_bytes=12 * GB, gpus=0)).slots == 2
    assert allot(config, 3, Machine(cores=16, memory_bytes=3 * GB, gpus=0)).slots == 1


def test_cores_are_shared_evenly():
    assert allot(SMALL, 3, Machine(2, 24 * GB, 0)).cpus == 1
    assert allot(SMALL, 3, Machine(16, 24 * GB, 0)).cpus == 5


def test_a_continued_study_keeps_its_threads_though_memory_went():
    begun = allot(SMALL, 3, Machine(4, 24 * GB, 0))
    assert (begun.slots, begun.cpus) == (3, 1)
    squeezed = Machine(4, int(1.5 * GB), 0)
    assert allot(SMALL, 3, squeezed).cpus == 4
    continued = allot(SMALL, 3, squeezed, settled_cpus=begun.cpus)
    assert (continued.slots, continued.cpus) == (1, 1)
    chosen = parse({"resources": {"memory_gb": 1, "cpus_per_trial": 2}}, "test")
    assert allot(chosen, 3, squeezed, settled_cpus=1).cpus == 2


@pytest.mark.parametrize(("share", "slots"), [(1.0, 2), (0.5, 4), (0.33, 6), (0.6, 2)])
def test_gpus_limit_the_cells_at_a_time(share: float, slots: int):
    config = parse({"resources": {"gpus_per_trial": share}}, "test")
    allotment = allot(config, 20, Machine(cores=32, memory_bytes=200 * GB, gpus=2))
    assert (allotment.slots, allotment.gpus) == (slots, share)


@given(
    cells=st.integers(1, 60), cores=st.integers(1, 128), gpus=st.integers(0, 8),
    memory=st.integers(1, 500), wanted=st.none() | st.integers(1, 256),
)  # fmt: skip
def test_something_always_runs_and_nothing_is_oversubscribed(
    cells: int, cores: int, gpus: int, memory: int, wanted: int | None
):
    config = parse({"resources": {"cpus_per_trial": wanted, "memory_gb": 5}}, "test")
    allotment = allot(config, cells, Machine(cores, memory * GB, gpus))
    assert 1 <= allotment.slots <= cells
    assert 1 <= allotment.cpus <= cores
    if not gpus:
        assert allotment.slots * allotment.cpus <= cores
        assert allotment.slots == 1 or allotment.slots * 5 * GB <= memory * GB


def test_disk_is_two_states_a_running_cell_and_weights_for_all():
    parameters = parameters_of(Config())
    assert parameters == 222_985_043
    assert disk_bytes(Config(), cells=3, slots=2) == parameters * (4 * 5 + 24 * 2)


def test_a_full_disk_is_refused_with_the_sum(tmp_path: Path):
    check_disk(tmp_path, 1)
    with pytest.raises(InputError, match=r"expected 1000000\.0 GB"):
        check_disk(tmp_path, 10**15)
