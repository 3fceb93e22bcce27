"""A folder here and its counterpart at a URL, which is the truth: versions, one writer a version.

    head-000007.json                         which files the folder holds, by name; the highest
                                             number counts, the one before it is left over
    objects/000007-5f3a0c21e9d4-00-state.pt  a file, as stored for head 7 by one writer

A writer stores what has changed under names of its own and then *creates* the next head, which
only one can. It goes on from the head that it began with or has created; where another has made
one since, it has lost the folder, and stops. So whatever is killed, paused or cut off, wherever:

- the highest head names whole files that belong together, the last that a writer has committed;
- a writer that was replaced can neither add to the folder nor take anything from it.

The second holds because a head only names files that the head before it named, or that were stored
for it: what was stored for this head's number or an earlier one and is not named by this head will
never be named again. That, and nothing else, is removed, by who has created the head and has seen
that it is the highest. Size and sha256 of every file are in the head, and checked on the way back.
"""

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from cityseg import atomic
from cityseg.config import Section
from cityseg.data import sha256_of
from study.objects import Objects, StoreError

ATTEMPTS: Final = 5
"""To read a head and its files while somebody commits newer ones."""
LARGE: Final = 1 << 20
"""Bytes from which a file's sha256 is kept in mind: a network's weights are not read again after
each epoch."""
LAST: Final = ("study.yaml", "confusion.npz")
"""Files whose presence says that the others are there."""


class TakenOverError(StoreError):
    """Another process has become the folder's writer."""


class Stored(Section):
    """A file at the URL."""

    object: str
    """Its name below the study's URL."""
    size: int
    """Bytes."""
    sha256: str


class Head(Section):
    """One version of a folder."""

    number: int
    """From 1; 0 of a folder that is not there."""
    writer: str
    """Who created it: a process' own random name."""
    files: dict[str, Stored]
    """By name within the folder, such as `last/state.pt`."""


NOTHING: Final = Head(number=0, writer="", files={})


@dataclass
class Mirror:
    """A folder here, and what is to be the same at a URL. Not for two threads at a time."""

    objects: Objects
    place: str
    """The folder's name below the URL."""
    folder: Path
    patterns: Sequence[str]
    """Names of the files that are mirrored, `*` for a part of one; others stay as they are."""
    writer: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    base: Head = NOTHING
    """The version that was read or committed last."""
    _digests: dict[tuple[int, int, int], str] = field(default_factory=dict)
    """Of large files, by inode, size and time."""

    def latest(self, number: int | None = None) -> Head:
        """The version that counts; `number`, if it is known to be there.

        Raises:
            StoreError: the store cannot be used, or the head is damaged.
        """
        for _ in range(ATTEMPTS):
            number = number or max(_numbers(self.objects.names(self.place)), default=0)
            if number == 0:
                return NOTHING
            try:
                return self._parse(number, self.objects.get(self._head(number)))
            except FileNotFoundError:  # a newer one has replaced it
                number = None
        raise self._damaged(self.place, "heads that vanish")

    def pull(self, patterns: Sequence[str] | None = None, number: int | None = None) -> Head:
        """Make the files here those of the latest version; returns it.

        Args:
            patterns: of the files that are wanted; by default all. Others are left alone.
            number: as of `latest`.

        Raises:
            StoreError: the store cannot be used, or a file is not what was stored.
        """
        for _ in range(ATTEMPTS):
            head, number = self.latest(number), None
            try:
                self._make_equal(head, patterns or self.patterns)
            except FileNotFoundError:  # a newer version has replaced it
                continue
            self.base = head
            return head
        raise self._damaged(self.place, "a head whose files are missing")

    def claim(self, without: Sequence[str] = ()) -> None:
        """Become the folder's writer: whoever was it cannot commit any more. Then pull all.

        Args:
            without: patterns of files to leave out from now on.

        Raises:
            TakenOverError: another claims it at the same time.
            StoreError: as `pull`.
        """
        self.base = self.latest()
        self.amend(drop=without)
        try:
            self._make_equal(self.base, self.patterns)
        except FileNotFoundError:
            raise self._damaged(self.place, "a head whose files are missing") from None

    def commit(self) -> None:
        """Make the files here the next version, if any differs or the last was another's.

        Raises:
            TakenOverError: another writer has committed or claimed since.
            StoreError: the store cannot be used.
        """
        names = _files(self.folder, self.patterns)
        digests = {name: self._digest(self.folder / name) for name in names}
        known = {name: stored.sha256 for name, stored in self.base.files.items()}
        if digests != known or self.base.writer != self.writer:
            changed = [name for name in names if known.get(name) != digests[name]]
            self._advance({name: self.base.files[name] for name in names - {*changed}}, changed)

    def amend(self, add: Sequence[str] = (), drop: Sequence[str] = ()) -> None:
        """Change the version that was read last, where not all of its files are here.

        Args:
            add: names of files here.
            drop: patterns.

        Raises:
            TakenOverError, StoreError: as `commit`.
        """
        kept = {n: stored for n, stored in self.base.files.items() if not matches(n, drop)}
        self._advance(kept, add)

    def _advance(self, kept: dict[str, Stored], names: Iterable[str]) -> None:
        """Commit the next version: of files that are stored already, and of others from here."""
        number = self.base.number + 1
        stored = {name: self._store(i, name, number) for i, name in enumerate(sorted(names))}
        head = Head(number=number, writer=self.writer, files={**kept, **stored})
        try:
            self.objects.create(self._head(number), head.model_dump_json(indent=1).encode())
        except FileExistsError:
            raise self._taken_over() from None
        there = self.objects.names(self.place)
        if max(_numbers(there)) != number:
            raise self._taken_over()
        self.base = head
        # the head before stays: whoever lists meanwhile finds one of the two
        needed = {self._head(number), self._head(number - 1)}
        needed |= {file.object for file in head.files.values()}
        for name in there:
            if _number(name) <= number and name not in needed:
                self.objects.delete(name)

    def _store(self, i: int, name: str, number: int) -> Stored:
        path = self.folder / name
        target = f"{self.place}/objects/{number:06d}-{self.writer}-{i:02d}-{path.name}"
        self.objects.store(path, target)
        return Stored(object=target, size=path.stat().st_size, sha256=self._digest(path))

    def _make_equal(self, head: Head, patterns: Sequence[str]) -> None:
        wanted = {n: stored for n, stored in head.files.items() if matches(n, patterns)}
        for name in _files(self.folder, patterns) - wanted.keys():
            (self.folder / name).unlink(missing_ok=True)
        for name in sorted(wanted, key=lambda name: (name in LAST, name)):
            path = self.folder / name
            if not path.is_file() or self._digest(path) != wanted[name].sha256:
                self._fetch(wanted[name], path)

    def _fetch(self, stored: Stored, path: Path) -> None:
        with atomic.replacing(path) as temporary:
            self.objects.fetch(stored.object, temporary)
            if sha256_of(temporary) != stored.sha256:
                got = f"{temporary.stat().st_size} bytes of another sha256"
                raise self._damaged(stored.object, got, f"the {stored.size} bytes stored there")

    def _digest(self, path: Path) -> str:
        stat = path.stat()
        key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if stat.st_size < LARGE:
            return sha256_of(path)
        if key not in self._digests:
            self._digests[key] = sha256_of(path)
        return self._digests[key]

    def _head(self, number: int) -> str:
        return f"{self.place}/head-{number:06d}.json"

    def _parse(self, number: int, content: bytes) -> Head:
        try:
            head = Head.model_validate_json(content)
        except ValidationError:
            raise self._damaged(self._head(number), f"{len(content)} bytes", "a head") from None
        return head

    def _damaged(self, name: str, got: str, expected: str | None = None) -> StoreError:
        remedy = f"remove {self.objects.url}/{self.place} to begin it anew"
        return StoreError(f"{self.objects.url}/{name}", got=got, expected=expected, remedy=remedy)

    def _taken_over(self) -> TakenOverError:
        return TakenOverError(f"{self.objects.url}/{self.place} was taken over by another process")


def _numbers(names: Iterable[str]) -> list[int]:
    """Numbers of the heads among an object's names."""
    return [_number(name) for name in names if re.search(r"/head-\d+\.json$", name)]


def _number(name: str) -> int:
    """The head that an object is, or was stored for."""
    match = re.search(r"/(?:head-|objects/)(\d+)[^/]*$", name)
    return int(match[1]) if match else 0


def _files(folder: Path, patterns: Sequence[str]) -> set[str]:
    paths = (path for pattern in patterns for path in folder.glob(pattern))
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Part by part, so that no name leads out of the folder."""
    parts = name.split("/")
    return ".." not in parts and any(
        len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )
