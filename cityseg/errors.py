"""The two errors that a user can meet, and how a command ends with them."""

import functools
import sys
from collections.abc import Callable
from typing import Final

INTERRUPTED: Final = 130
"""Exit code of a command ended by Ctrl-C: 128 and the signal's number, as shells have it."""


class InputError(ValueError):
    """A mistake in what was given: configuration, data, files. Ends a command with exit code 2.

    The message is one line: what is wrong, what was got, what was expected, what to do.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: str | None = None, remedy: str = ""
    ):
        parts = [] if got is None else [f"got {got}"]
        parts += [] if expected is None else [f"expected {expected}"]
        detail = f": {', '.join(parts)}" if parts else ""
        message = f"{what}{detail}{'; ' if remedy else ''}{remedy}"
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class TrainingError(RuntimeError):
    """A training that cannot go on and would fail again if retried, such as a non-finite loss."""


def user_command(main: Callable[[], int]) -> Callable[[], int]:
    """Decorate a command: a user's mistake gives one line and exit code 2, never a traceback.

    So does Ctrl-C, with its own code. A programmer's mistake keeps its traceback.
    """

    @functools.wraps(main)
    def command() -> int:
        try:
            return main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except TrainingError as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return command
