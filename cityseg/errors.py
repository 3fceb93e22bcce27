"""The two errors that a user can meet, and how a command ends with them."""

import errno
import functools
import io
import sys
from collections.abc import Callable
from typing import Final

INTERRUPTED: Final = 130
"""Exit code of a command ended by Ctrl-C: 128 and the signal's number, as shells have it."""

REFUSED_BY_THE_SYSTEM: Final = frozenset(
    {
        errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM,
        errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
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


def user_command(main: Callable[[], int]) -> Callable[[], int]:
    """Decorate a command: a user's mistake gives one line and exit code 2, never a traceback.

    So does a path that the file system refuses, and Ctrl-C, with its own code. A programmer's
    mistake keeps its traceback.
    """

    @functools.wraps(main)
    def command() -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text at all
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except TrainingError as error:
            print(f"failed: {error}", file=sys.stderr)
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
