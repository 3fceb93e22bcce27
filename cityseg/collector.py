"""Python's garbage collector, kept out of the way where a process starts and ends.

torch, Ray and what they import are half a million objects that live as long as the process. The
collector looks through all of them again and again while they are made, a quarter of the time that
importing takes, and once more when the process ends, for a second.
"""

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collect nothing within: for large imports, whose objects stay anyway."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def skip_at_exit() -> None:
    """When this process ends, leave to the system what it would look through.

    What is to be done at the end is done as ever: only cycles that nothing refers to any more are
    not searched for, whose finalisers Python does not promise to call then.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
