"""One driver at a time for a study at a URL: a sign of life, renewed while it runs.

The second driver is refused with a word of who the first is. A driver that was killed is taken over
from once its sign is LIMIT_S old, at once from its own machine, whose lock tells. An old sign may
also be that of a clock which jumped, or differs: so it is watched for a while, and one that is
renewed meanwhile is of a driver that lives. The sign is for people: what keeps two drivers from
writing one study is that only one can create a head (mirror).
"""

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from cityseg import atomic
from cityseg.config import Section
from cityseg.errors import InputError
from study.objects import Objects, StoreError

NAME: Final = "owner.json"
BEAT_S: Final = 30
"""Between two signs of life."""
LIMIT_S: Final = 120
"""Age of a sign, by this machine's clock, from which its driver may be dead."""
WATCH_S: Final = 1.5 * BEAT_S
"""How long such a sign is watched."""
SETTLE_S: Final = 2
"""How long one who takes over waits to see whether somebody else does."""


class Owner(Section):
    """owner.json."""

    id: str
    host: str
    process: int
    folder: str
    """Of the driver's folder: who holds the same folder's lock knows that this driver is dead."""
    beat: float
    """Time of the last sign, seconds since 1970 UTC."""

    @property
    def age_s(self) -> float:
        """Since the last sign; negative if the clocks differ."""
        return time.time() - self.beat

    @property
    def is_fresh(self) -> bool:
        """Whether the sign is of now; a sign of a future far off is none, a clock was set."""
        return abs(self.age_s) < LIMIT_S


def owner_of(objects: Objects) -> Owner | None:
    """Who drives a study, or did so last; None if it ended in good order.

    Raises:
        StoreError: the store cannot be used.
    """
    with contextlib.suppress(FileNotFoundError, ValidationError):
        return Owner.model_validate_json(objects.get(NAME))
    return None


def is_driven(objects: Objects) -> bool:
    """Whether a study's driver has given a sign of life lately."""
    owner = owner_of(objects)
    return owner is not None and owner.is_fresh


@contextlib.contextmanager
def owning(objects: Objects, folder: Path) -> Iterator[str]:
    """Be the one driver of the study at a URL; yields the id by which `sharing` joins in.

    Args:
        objects: of the study.
        folder: the driver's own, whose lock is held.

    Raises:
        InputError: another driver lives, or has taken over.
        StoreError: the store cannot be used.
    """
    owner = Owner(
        id=uuid.uuid4().hex, host=socket.gethostname(), process=os.getpid(),
        folder=_name_of(folder), beat=time.time(),
    )  # fmt: skip
    _take(objects, owner)
    try:
        with _beating(objects, owner):
            yield owner.id
    finally:
        with contextlib.suppress(StoreError):  # it ends whether that can be told or not
            now = owner_of(objects)
            if now and now.id == owner.id:
                objects.delete(NAME)


@contextlib.contextmanager
def sharing(objects: Objects, owner_id: str) -> Iterator[None]:
    """Drive for an owner that is elsewhere, and may be killed there.

    Raises:
        InputError: another driver has taken over.
        StoreError: the store cannot be used.
    """
    owner = owner_of(objects)
    if owner is None or owner.id != owner_id:
        raise _lost(objects)
    with _beating(objects, owner):
        yield


def _take(objects: Objects, owner: Owner) -> None:
    before = owner_of(objects)
    if before and before.folder != owner.folder and _lives(objects, before):
        raise _refused(objects, before)
    if before is None:
        try:
            objects.create(NAME, _content(owner))
        except FileExistsError:
            raise _refused(objects, owner_of(objects)) from None
        return
    objects.replace(NAME, _content(owner))
    time.sleep(SETTLE_S)
    now = owner_of(objects)
    if now is None or now.id != owner.id:
        raise _refused(objects, now)


def _lives(objects: Objects, owner: Owner) -> bool:
    """Whether a sign of life is fresh, or is renewed while it is watched."""
    if owner.is_fresh:
        return True
    end = time.monotonic() + WATCH_S
    while time.monotonic() < end:
        time.sleep(min(SETTLE_S, WATCH_S))
        now = owner_of(objects)
        if now is None or now.beat != owner.beat:
            return now is not None
    return False


@contextlib.contextmanager
def _beating(objects: Objects, owner: Owner) -> Iterator[None]:
    """Renew the sign of life; when it is another's, end this process as by Ctrl-C."""
    over, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            with contextlib.suppress(StoreError):  # the next beat may get through
                now = owner_of(objects)
                if now and now.id != owner.id:
                    lost.set()
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                renewed = owner.model_copy(update={"beat": time.time()})
                objects.replace(NAME, _content(renewed))

    beater = threading.Thread(target=beat, daemon=True)
    beater.start()
    try:
        yield
    finally:
        over.set()
        beater.join()
        if lost.is_set():
            raise _lost(objects)


def _content(owner: Owner) -> bytes:
    return owner.model_dump_json(indent=1).encode()


def _name_of(folder: Path) -> str:
    """A random name that stays with a folder, as its path and its host's name need not."""
    file = folder / ".name"
    if not file.is_file():
        atomic.write_text(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8")


def _refused(objects: Objects, owner: Owner | None) -> InputError:
    what = f"study {objects.url} is being run by another process"
    remedy = f"wait for it, give another --name, or remove {objects.url}/{NAME} if it is dead"
    if owner is None:
        return InputError(what, remedy=remedy)
    sign = f"a sign of life {owner.age_s:.0f} s ago from {owner.host}, process {owner.process}"
    return InputError(what, got=sign, expected=f"none for {LIMIT_S} s", remedy=remedy)


def _lost(objects: Objects) -> InputError:
    return InputError(f"study {objects.url} was taken over by another process")
