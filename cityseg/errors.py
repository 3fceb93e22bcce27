"""The errors that a user can meet, and how a command ends with them, or by a signal."""

import contextlib
import errno
import functools
import io
import os
import select
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cityseg import collector

INTERRUPTED: Final = 130
"""Exit code of a command ended by Ctrl-C: 128 and the signal's number, as shells have it."""

REFUSED_BY_THE_SYSTEM: Final = frozenset(
    {
        errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM,
        errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EEXIST,
    }
)  # fmt: skip
"""Errors of the file system that are about the path given or its disk: never a programmer's."""


class InputError(ValueError):
    """A mistake in what was given: configuration, data, files. Ends a command with exit code 2.

    The message is one line: what is wrong, what was got, what was expected, what to do. What a
    terminal would take for a command, or could not print, is written out.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: str | None = None, remedy: str = ""
    ):
        parts = [] if got is None else [f"got {got}"]
        parts += [] if expected is None else [f"expected {expected}"]
        detail = f": {', '.join(parts)}" if parts else ""
        message = f"{what}{detail}{'; ' if remedy else ''}{remedy}"
        line = " ".join(line.strip() for line in message.splitlines())
        super().__init__(line if line.isprintable() else printable(line))


class TrainingError(RuntimeError):
    """A training that cannot go on and would fail again if retried, such as a non-finite loss."""


def printable(text: str) -> str:
    """The text with every character that is not to be printed as its escape, such as `\\x1b`."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things in words: `1 file`, `2 files`; `plural` where that is not noun and s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def first_of(items: Sequence[object], shown: int, separator: str = "; ") -> str:
    """The first of many things in one line, and how many more there are."""
    more = [f"and {len(items) - shown} more"] if len(items) > shown else []
    return separator.join([*map(str, items[:shown]), *more])


class TransientError(RuntimeError):
    """Something of the machine's that may pass: tried again, a training goes on from where it was.

    Such as a process that loads data and hangs.
    """


class DiskError(TransientError, OSError):
    """A file cannot be written: the disk is full, gone, or may not be written to (any more)."""


@contextlib.contextmanager
def terminations_as_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP end what runs in good order, as Ctrl-C does.

    Those that the caller has ignored stay ignored: under `nohup` a closed terminal ends nothing.
    """

    def interrupt(_: int, frame: types.FrameType | None) -> None:
        ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(ctrl_c):  # a shell's background jobs ignore SIGINT, but not this
            raise KeyboardInterrupt
        ctrl_c(signal.SIGINT, frame)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heard = {number: now for number, now in before.items() if now != signal.SIG_IGN}
    for number in heard:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def user_command(main: Callable[[], int]) -> Callable[[], int]:
    """Decorate a command: a user's mistake gives one line and exit code 2, never a traceback.

    So do a path that the file system refuses, with 2, a fault of the machine's, with 1, and Ctrl-C,
    SIGTERM or SIGHUP, with 130. A programmer's mistake keeps its traceback.
    """

    @functools.wraps(main)
    def command() -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text at all
            sys.stdout.reconfigure(errors="backslashreplace")
        collector.skip_at_exit()
        try:
            with terminations_as_ctrl_c():
                code = main()
                sys.stdout.flush()  # what cannot be written shows here, not when Python ends
                return code
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except (TrainingError, TransientError) as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            if not _nobody_reads():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.errno not in REFUSED_BY_THE_SYSTEM:
                raise
            what = printable(str(error.filename or "a file could not be written"))
            print(f"error: {what}: got {error.strerror}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return command


def _nobody_reads() -> bool:
    """Whether the other end of stdout is closed: its reader, such as `head`, has seen enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))
