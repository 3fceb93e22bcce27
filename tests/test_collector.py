"""The garbage collector is out of the way of large imports and of a command's end."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from cityseg import collector

SOURCES = Path(__file__).parents[1]

SEEN = """
import gc, importlib.abc, sys

class Seen(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torch", "ray.tune", "study.trial"):
            print(name, gc.isenabled())

sys.meta_path.insert(0, Seen())
"""


def run(code: str, *words: str) -> list[str]:
    """The lines that a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=SOURCES, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_goes_on_after_a_pause_as_before_it(enabled: bool):
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ImportError), collector.paused():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_command_that_ends_does_what_is_to_be_done_then_and_looks_through_nothing():
    """What is registered first is called last."""
    code = """
import atexit, gc, sys
atexit.register(lambda: print("frozen", gc.get_freeze_count() > 1000))
from cityseg.errors import user_command

def main():
    atexit.register(print, "said at exit")
    assert gc.get_freeze_count() == 0  # not while it works
    print("said")
    return 0

sys.exit(user_command(main)())
"""
    assert run(code) == ["said", "said at exit", "frozen True"]


def test_torch_is_imported_without_the_collector_and_by_a_worker_the_cell_before_tune(
    tmp_path: Path,
):
    """A worker imports what its class refers to, in the order in which it is pickled."""
    pickled = tmp_path / "trainable"
    write = """
import sys
from pathlib import Path
from ray import cloudpickle
from study.resources import Allotment
from study.trial import trainable
Path(sys.argv[1]).write_bytes(cloudpickle.dumps(trainable(Allotment(1, 2, 0, 1), True)))
"""
    run(write, str(pickled))
    read = """
import pickle
print(pickle.load(open(sys.argv[1], "rb")).__name__, gc.isenabled())
"""
    cell = ["study.trial True", "ray.tune False", "torch False", "Fold True"]
    assert run(SEEN + read, str(pickled)) == cell
    driver = """
from cityseg.config import Config
from study.run import fetch_encoders
from study.space import Search
config = Config()
model = config.model.model_copy(update={"weights": "none"})
fetch_encoders(Search(), config.model_copy(update={"model": model}))
print("end", gc.isenabled())
"""
    assert run(SEEN + driver) == ["torch False", "end True"]
