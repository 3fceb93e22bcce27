"""What is said to fit does, by the arithmetic that shares the machines among cells."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cityseg import memory
from cityseg.config import parse
from study.tuning import WORKER_ENVIRONMENT

SOURCES = Path(__file__).parents[1]

FAULTS = """
import resource, sys, threading
import torch
from cityseg.config import Resources
from cityseg.train import use_device

def work():
    for _ in range(5):
        for megabytes in (1, 40, 100):
            torch.ones(megabytes * 2**18)

def faults():
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def train():
    given_back = faults()
    use_device(Resources())
    print(given_back, faults())

if sys.argv[1] == "thread":
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
else:
    train()
"""


@pytest.mark.parametrize(("train", "val"), [(64, 16), (2, 8)])
@pytest.mark.parametrize("precision", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("gigabytes", [6, 16, 24, 80])
def test_what_is_said_to_fit_fits_by_the_same_arithmetic(
    train: int, val: int, precision: str | None, gigabytes: int
):
    big = parse({"train": {"batch_size": train}, "evaluate": {"batch_size": val}}, "test")
    said = memory.would_fit(big, gigabytes * 10**9, precision)
    proposals = [p for p in said.split(" or ") if "=" in p]
    assert proposals or gigabytes < 24
    for proposal in proposals:
        words = dict(word.split("=") for word in proposal.split(" and "))
        batch = int(words.get("train.batch_size", train))
        other = int(words.get("evaluate.batch_size", val))
        size = [int(n) for n in words.get("data.input_size", "[512,1024]")[1:-1].split(",")]
        sizes = {"train": {"batch_size": batch}, "evaluate": {"batch_size": other}}
        config = parse({**sizes, "data": {"input_size": size}}, "test")
        assert memory.training_bytes(config, precision) <= gigabytes * 1e9
        assert batch <= train and other <= val
        assert max(batch, other) * size[0] * size[1] <= max(train, val) * 512 * 1024 / 2
    assert "a smaller model" in memory.would_fit(big, 3 * 10**9, precision)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no mallopt")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_training_on_a_cpu_finds_again_the_memory_that_it_freed(where: str):
    """Counted in pages that the system had to clear: in a cell's worker Tune trains in a thread."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SOURCES), **WORKER_ENVIRONMENT}
    words = [sys.executable, "-c", FAULTS, where]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < 0.1 * given_back
