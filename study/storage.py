"""Optuna's storages: a file in the study's folder, or a database that a team shares."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cityseg.errors import InputError

SQLITE_TIMEOUT_S: Final = 60
"""How long another reader of the file, such as a dashboard, is waited for."""
CONNECT_TIMEOUT_S: Final = 10
"""How long a server that does not answer is waited for."""
IN_FOLDER: Final = ("sqlite", "journal")
"""Storages that are a file in the study's folder."""


def open_storage(storage: str, folder: Path) -> BaseStorage:
    """Open a storage, making what is not there.

    Args:
        storage: `sqlite`, `journal` (a file that may lie on a network's disk), or a database's URL.
        folder: of the study; holds the file of the first two.
    """
    return get_storage(_open(storage, folder))


def _open(storage: str, folder: Path) -> BaseStorage:
    if storage == "journal":
        file = folder / "optuna.journal"
        _drop_torn_line(file)
        return JournalStorage(JournalFileBackend(str(file)))
    if storage == "sqlite":
        wait = {"connect_args": {"timeout": SQLITE_TIMEOUT_S}}
        return RDBStorage(f"sqlite:///{folder / 'optuna.db'}", engine_kwargs=wait)
    url = _url(storage)
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(CONNECT_TIMEOUT_S)})
    return RDBStorage(
        url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True}
    )


def _drop_torn_line(file: Path) -> None:
    """A writer killed amid a line leaves its start, which the next line would be glued to."""
    lines = file.read_bytes() if file.is_file() else b""
    if lines and not lines.endswith(b"\n"):
        with file.open("r+b") as journal:
            journal.truncate(lines.rfind(b"\n") + 1)


def without_password(storage: str) -> str:
    """A storage as it may be written down.

    Raises:
        InputError: no URL.
    """
    if storage in IN_FOLDER:
        return storage
    url = _url(storage).difference_update_query(["password"])
    return url._replace(password=None).render_as_string()  # URL.set(password=None) keeps it


@contextmanager
def one_line_errors(storage: str) -> Iterator[None]:
    """What a database says when it cannot be reached, without its password and its traceback."""
    try:
        yield
    except (
        SQLAlchemyError, StorageInternalError, json.JSONDecodeError, RuntimeError, OSError
    ) as error:  # fmt: skip
        cause = error.__cause__ or error
        lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
        raise InputError(
            f"cannot use the storage {without_password(storage)}",
            got=(lines or [type(cause).__name__])[0],
            remedy="if its file is damaged, remove it: it is made anew from the study's folder"
            if storage in IN_FOLDER
            else "",
        ) from None
    except ImportError as error:
        raise InputError(
            f"the storage {without_password(storage)} needs a driver", got=str(error),
            remedy='for PostgreSQL: pip install "cityseg-study[postgres]"',
        ) from None  # fmt: skip


def _url(storage: str) -> URL:
    try:
        url = make_url(storage)
        url.get_dialect()
    except NoSuchModuleError:
        raise InputError(
            "--storage", got=f"the unknown kind of database {storage.partition(':')[0]}",
            expected="sqlite, journal, or postgresql://user@host/database",
        ) from None  # fmt: skip
    except ArgumentError:
        raise InputError(
            "--storage", got="no URL of a database", expected="sqlite, journal, or "
            "postgresql://user@host/database",
        ) from None  # fmt: skip
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
