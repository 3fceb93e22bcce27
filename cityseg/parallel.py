"""The same work on many files: by several processes where that pays, seen on a terminal."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import track

from cityseg.errors import TransientError

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARE: Final = 50
"""Items a process must have before starting it saves more time than it costs."""
CHUNK: Final = 8
"""Items sent to a process at once."""


def each(
    work: Callable[[Item], Result], items: Sequence[Item], what: str, processes: int | None = None
) -> Iterator[Result]:
    """`work(item)` of every item, in order; an error of one is raised here.

    Args:
        work: a function at the top of a module; it runs in another process.
        items: must be picklable, as the results.
        what: names the work beside the bar that shows its progress if stderr is a terminal.
        processes: by default one a core, but no more than the number of items is worth.

    Raises:
        TransientError: a process was killed.
    """
    wanted = processes or min(os.cpu_count() or 1, len(items) // SHARE)
    bar = Console(stderr=True)
    watched = track(
        _results(work, items, wanted), what, len(items),
        console=bar, transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    yield from watched


def _results(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[Result]:
    if processes < 2:
        yield from map(work, items)
        return
    # Not fork: the parent may hold threads (torch's, OpenCV's), whose locks a fork would copy.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context)
    try:
        yield from pool.map(work, items, chunksize=CHUNK)
    except BrokenProcessPool:
        raise TransientError(
            "a process that read files was lost, perhaps for want of memory; run the same command "
            "again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
