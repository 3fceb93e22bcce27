"""The objects below a URL, through fsspec: read, written whole, created exclusively, listed.

Relied upon, and true of S3, Google Cloud Storage, Azure's blobs and a local disk (file://): an
object is there whole or not at all, a listing holds what was written before it, and of two who
create one object a single one succeeds. A file system of fsspec's that has no conditional write
looks first and writes then: there two writers in the same moment are not told apart.
"""

import contextlib
import functools
import os
import re
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from cityseg.errors import InputError

Result = TypeVar("Result")

PAUSES_S: Final = (1, 4, 15)
"""Before what failed is tried again, once the store had answered."""


class StoreError(InputError):
    """The store cannot be used, or no longer by us, or holds what nobody has stored."""


def url_of(place: Path | str) -> str | None:
    """The URL that a place is, or None for a path. A `Path` of it has lost one of its slashes."""
    match = re.fullmatch(r"([a-z][a-z0-9+.:-]+):/+(.*?)/*", str(place))
    if not match:
        return None
    protocol, rest = match.groups()
    return f"file:///{rest}" if protocol == "file" else f"{protocol}://{rest}"


class Objects:
    """All objects below a URL, by their names within it, such as `v000/f1/head-000001.json`."""

    def __init__(self, url: str):
        """Nothing is asked of the store yet.

        Raises:
            StoreError: no file system of fsspec's, or one whose package is missing.
        """
        self.url = url
        self._pauses: Sequence[int] = ()
        if "::" in url:
            raise StoreError(url, expected="one protocol, such as s3://bucket/folder")
        options = {"auto_mkdir": True} if url.startswith("file:") else {}
        try:
            self._fs, self._root = self._attempt(functools.partial(url_to_fs, url, **options))
        except ValueError as error:  # fsspec knows no such protocol
            raise StoreError(f"cannot use {url}", got=_line(error)) from None
        self._pauses = ()  # no store has answered by this

    def get(self, name: str) -> bytes:
        """An object's content.

        Raises:
            FileNotFoundError: there is none.
            StoreError: the store cannot be used.
        """
        return self._attempt(lambda: self._fs.cat_file(self._path(name)))

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a file. Raises as `get`."""
        self._attempt(lambda: self._fs.get_file(self._path(name), str(path)))

    def store(self, path: Path, name: str) -> None:
        """Copy a file to a new object; its size is looked at.

        Raises:
            StoreError: the store cannot be used, or holds only a part of it.
        """
        self._write(lambda: self._fs.put_file(str(path), self._path(name)))
        stored = self._write(lambda: self._fs.info(self._path(name)))["size"]
        if stored != path.stat().st_size:
            raise StoreError(
                f"{self.url}/{name}", got=f"{stored} bytes",
                expected=f"the {path.stat().st_size} bytes of {path}",
            )  # fmt: skip

    def replace(self, name: str, content: bytes) -> None:
        """Write an object, whatever is there.

        Raises:
            StoreError: the store cannot be used.
        """
        self._write(lambda: self._put(self._path(name), content, os.replace))

    def create(self, name: str, content: bytes) -> None:
        """Write an object that is not there yet.

        Raises:
            FileExistsError: it is there, with other content. The same is our own write, whose
                answer was lost.
            StoreError: the store cannot be used.
        """
        try:
            self._write(lambda: self._put(self._path(name), content, os.link, mode="create"))
        except (FileExistsError, StoreError) as error:  # some refuse with an error of their own
            try:
                there = self.get(name)
            except FileNotFoundError:
                raise error from None
            if there != content:
                raise FileExistsError(name) from None

    def names(self, folder: str = "") -> list[str]:
        """Names of all objects in a folder and below; empty without one.

        Raises:
            StoreError: the store cannot be used.
        """
        self._fs.invalidate_cache()  # others write there, too
        try:
            paths = self._attempt(lambda: self._fs.find(self._path(folder).rstrip("/")))
        except FileNotFoundError:
            return []
        return [path.removeprefix(f"{self._root}/") for path in paths]

    def delete(self, name: str) -> None:
        """Remove an object, if it is there.

        Raises:
            StoreError: the store cannot be used.
        """
        with contextlib.suppress(FileNotFoundError):
            self._attempt(lambda: self._fs.rm_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(
        self, path: str, content: bytes, settle: Callable[[str, str], None], **mode: str
    ) -> None:
        """A disk's files come into being empty: those get their name when they are whole."""
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(path, content, **mode)
            return
        temporary = Path(f"{path}.{uuid.uuid4().hex}.tmp")
        self._fs.pipe_file(str(temporary), content)
        try:
            settle(str(temporary), path)
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, work: Callable[[], Result]) -> Result:
        try:
            return self._attempt(work)
        except FileNotFoundError as error:  # such as a bucket
            raise StoreError(f"cannot use {self.url}", got=_line(error)) from None

    def _attempt(self, work: Callable[[], Result]) -> Result:
        """Do it, again after a pause if it failed and anything has succeeded before."""
        for pause in (*self._pauses, None):
            try:
                result = work()
            except (FileNotFoundError, FileExistsError):
                self._pauses = PAUSES_S
                raise
            except Exception as error:  # each file system has errors of its own
                if not _is_of_a_store(error):
                    raise
                if pause is None or isinstance(error, PermissionError | NotImplementedError):
                    raise StoreError(f"cannot use {self.url}", got=_line(error)) from None
                time.sleep(pause)
            else:
                self._pauses = PAUSES_S
                return result
        raise AssertionError("the last attempt returns or raises")


def _is_of_a_store(error: Any) -> bool:
    """Not a mistake of ours."""
    usual = isinstance(error, OSError | ImportError | NotImplementedError)
    return usual or type(error).__module__ != "builtins"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
