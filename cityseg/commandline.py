"""Reading a command line with tyro; what is wrong with it is one line, as all mistakes are."""

import functools
import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any, Final, TypeVar

import tyro

from cityseg.errors import InputError

Result = TypeVar("Result")

MISTAKE: Final = 2
"""Exit code of tyro's complaints."""


def read(form: Any, **options: Any) -> Any:
    """`tyro.cli(form, **options)` of a class, or a union of classes: an object of it.

    Raises:
        InputError: the command line does not fit; tyro would print a box of several lines.
        SystemExit: help was asked for, and printed.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(form, **options)
    except SystemExit as end:
        if end.code != MISTAKE:
            raise
        raise InputError(one_line(said.getvalue())) from None


def call(work: Callable[..., Result], **options: Any) -> Result:
    """`tyro.cli(work, **options)` of a function: what it returns.

    Raises:
        InputError: as `read`.
        SystemExit: as `read`.
    """

    @functools.wraps(work)
    def later(*args: Any, **kwargs: Any) -> Callable[[], Result]:
        return functools.partial(work, *args, **kwargs)

    return read(later, **options)()


def one_line(box: str) -> str:
    """What tyro's box says, without its frame (drawn in ASCII, if need be) and the help in it."""
    rows = [re.sub(r"^[│|] ?|\s*[│|]$", "", line) for line in box.splitlines()]
    parts = re.split(r"\n(?:[╭╰+]|\s*(?:─|--)[─-]{3}).*", "\n" + "\n".join(rows))
    texts = [text for text in (" ".join(part.split()).rstrip(".") for part in parts) if text]
    if len(texts) > 2 and "╭" not in box:  # ASCII: the box's title is its first row
        texts = texts[1:]
    *said, last = texts or [""]
    said = [text for text in said if not text.startswith("Argument helptext")]
    return "; ".join((*said, re.sub(r"^For full helptext, (see|run:?) ", "see: ", last)))
