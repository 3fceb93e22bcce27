"""Beginning a study, or taking it up again: one driver at a time, and nothing incomparable."""

import contextlib
import datetime
import functools
import importlib.metadata
import platform
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import filelock

from cityseg.config import difference
from cityseg.data import fingerprint
from cityseg.errors import DiskError, InputError
from cityseg.folds import FoldsFile, write_folds
from cityseg.plan import Plan, check_batch, check_data, examine, plan_folds
from study.home import make
from study.resources import Machine
from study.space import Search, check_count, given_rows, read_search
from study.store import DataRecord, Study, StudyRecord


@contextlib.contextmanager
def only_driver(study: Study) -> Iterator[None]:
    """Hold the study's lock: two drivers would train the same cells into each other.

    The folder is made if need be, and goes again if nothing in it was begun but a mistake found.

    Raises:
        InputError: another driver holds it, or the folder cannot be made or written to.
    """
    made = [path for path in (study.folder, *study.folder.parents) if not path.exists()]
    make(study.folder)
    new = not study.lock_file.exists()
    with _held(study):
        try:
            yield
        except (InputError, DiskError):
            if new and not any(study.folder.glob("v*")):
                _forget(study, made)
            raise


@contextlib.contextmanager
def _held(study: Study) -> Iterator[None]:
    lock = filelock.FileLock(study.lock_file)
    try:
        try:
            lock.acquire(timeout=1)  # `study.status` holds it for a moment when it looks
        except FileNotFoundError:  # a start that was refused meanwhile took the folder away
            make(study.folder)
            lock.acquire(timeout=1)
    except filelock.Timeout:
        raise InputError(
            f"study {study.folder.name} is being run by another process",
            remedy="wait for it, or give another --name",
        ) from None
    except OSError as error:
        raise _unwritable(study, error) from None
    try:
        yield
    finally:
        lock.release()


def _forget(study: Study, made: list[Path]) -> None:
    """Take back a start of which no row was begun, and the folders made for it.

    While we hold the lock, which goes as well: who waits for it sees that, and makes another.
    """
    if made:
        for path in (study.record_file, study.folds_file):
            path.unlink(missing_ok=True)
    study.lock_file.unlink()
    with contextlib.suppress(OSError):  # there is something else in it
        for folder in made:
            folder.rmdir()


def begin(
    study: Study,
    plan: Plan,
    folds_file: Path | None = None,
    storage: str | None = None,
    decode: bool = False,
) -> None:
    """Write a new study's folds and record, or check that the existing study is the same one.

    A study of which no epoch was finished yet holds nothing to compare, and is begun anew. An
    existing one may get more rows.

    Args:
        study: its folder.
        plan: what is to be trained.
        folds_file: one's own split.
        storage: Optuna's, without a password; by default a file in the study's folder.
        decode: frames that must be read to be checked are decoded into the cache on the way.

    Raises:
        InputError: the folder holds a study of another configuration, data set or split, or of an
            older layout; bad rows; bad data.
        DiskError: the folder cannot be written to.
    """
    old = study.read() if study.has_epochs() else None
    if old is None:
        refuse_other_layouts(study)
    examined = functools.cache(lambda: examine(plan, decode))
    folds = (
        study.read_folds()
        if old and not folds_file
        else plan_folds(plan, folds_file, lambda _: examined())
    )
    record = _continued(study, old, plan, folds) if old else _begun(study, plan, folds)
    check_data(plan, folds, examined())
    usual = "sqlite" if record.search.space else None
    record = record.model_copy(update={"storage": storage or record.storage or usual})
    if old is None:
        _forget_rows(study)
        write_folds(study.folds_file, folds)
    study.write(record)


def _begun(study: Study, plan: Plan, folds: FoldsFile) -> StudyRecord:
    """The record of a new study."""
    record = describe(study, plan, folds, _search_of(plan, folds))
    return record.model_copy(update=_id_of(study))


def _continued(study: Study, old: StudyRecord, plan: Plan, folds: FoldsFile) -> StudyRecord:
    """The record of a study that is there, with what may change and has."""
    new = describe(study, plan, folds, _search_of(plan, folds, old.search.variants))
    refuse_changes(study, old, new)
    search = _with_room(study, new.search, plan)
    check_count(search, plan.config)
    return old.model_copy(update={"config": new.config, "data": new.data, "search": search})


def _search_of(plan: Plan, folds: FoldsFile, there: int | None = None) -> Search:
    """The rows that are asked for; `there` as of `read_search`."""
    return read_search(
        plan.search, plan.config, lambda config: check_batch(folds, config.train), there
    )


def _unwritable(study: Study, error: OSError) -> InputError:
    return InputError(
        f"cannot write to {study.folder}",
        got=error.strerror or error,
        remedy="free some space, or give another folder by --results",
    )


def refuse_other_layouts(study: Study) -> None:
    """Refuse a folder with results where a study of ours has none: they would be lost in it.

    Raises:
        InputError: with the first of them.
    """
    for above in ("", "*/", "*/*/", "*/*/*/"):
        for name in ("epochs.csv", "confusion.npz", "*.safetensors"):
            found = min(study.folder.glob(above + name), default=None)
            if found is not None:
                raise InputError(
                    f"{study.folder} holds results in another layout",
                    got=found.relative_to(study.folder),
                    expected="v000/f1/epochs.csv and a study.yaml",
                    remedy="they are of another program or version; give another --name",
                )


def _forget_rows(study: Study) -> None:
    """Rows of a start that finished no epoch: the next start chooses its own."""
    for name in ("row.yaml", "pruned.txt", "f*/failure.txt"):
        for path in study.folder.glob(f"v*/{name}"):
            path.unlink()


def _id_of(study: Study) -> dict[str, str]:
    """The id of a start that finished no epoch: Optuna's storage may hold the study by it."""
    if not study.exists():
        return {}
    with contextlib.suppress(InputError):
        return {"id": study.read().id}
    return {}


def _with_room(study: Study, search: Search, plan: Plan) -> Search:
    """Room for given rows that were appended after rows had been drawn: they come on top.

    Raises:
        InputError: a number of rows was asked for that leaves none.
    """
    there = [row.parameters for row in study.rows()]
    coming = sum(row not in there for row in given_rows(search, plan.config))
    needed = len(there) + coming
    if coming == 0 or (search.variants or 1) >= needed:
        return search
    if plan.search.get("variants") is not None:
        raise InputError(
            "search.variants", got=search.variants,
            expected=f"at least {needed}: {len(there)} rows are there, {coming} given are to come",
        )  # fmt: skip
    return search.model_copy(update={"variants": needed})


def refuse_changes(study: Study, old: StudyRecord, new: StudyRecord) -> None:
    """Refuse what would mix cells that cannot be compared, or rows drawn in different ways.

    Raises:
        InputError: with every difference.
    """
    changes = difference(old.config.identity(), new.config.identity())
    changes += _search_changes(old.search, new.search)
    if old.data.fingerprint != new.data.fingerprint:
        changes.append(f"data: {old.data.frames} frames -> {new.data.frames}, other names or sizes")
    if study.read_folds().content_hash() != old.folds_hash:
        changes.append(f"{study.folds_file.name}: not the one this study began with")
    elif old.folds_hash != new.folds_hash:
        changes.append("folds: the file given differs")
    if changes:
        raise InputError(
            f"study {study.folder.name} was begun otherwise ({'; '.join(changes)})",
            remedy="give another --name, or take the change back",
        )


def _search_changes(old: Search, new: Search) -> list[str]:
    """What may not change: how the rows that are there were chosen and are compared.

    A study of the base row alone may become any search; one of given rows may begin to draw others.
    """
    if (old.variants or 1) == 1:
        return []
    free = {"variants", "rows", "prune", "keep_weights"}
    free |= set() if old.space else {"space", "sampler", "startup", "seed"}
    free |= set() if old.grid else {"grid"}
    before, now = (search.model_dump(mode="json", exclude=free) for search in (old, new))
    changes = difference(before, now, "search.")
    if new.rows[: len(old.rows)] != old.rows:
        changes.append("search.rows: the first are not those that it began with")
    if (new.variants or 1) < (old.variants or 1):
        changes.append(f"search.variants: {old.variants} -> {new.variants}, it can only grow")
    return changes


def describe(study: Study, plan: Plan, folds: FoldsFile, search: Search) -> StudyRecord:
    """The record of a study that is begun now."""
    packages = ("cityseg-study", "torch", "torchvision", "ray", "optuna", "albumentations", "numpy")
    import torch  # as in study.resources

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cities = Counter(frame.city for frame in plan.frames)
    return StudyRecord(
        name=study.folder.name,
        created=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "study.run", *_without_password(sys.argv[1:])]),
        data=DataRecord(
            root=plan.root,
            kind=plan.kind,
            frames=len(plan.frames),
            cities=dict(sorted(cities.items())),
            fingerprint=fingerprint(plan.frames),
        ),
        folds_hash=folds.content_hash(),
        config=plan.config,
        search=search,
        versions={
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        hardware={
            "machine": platform.platform(),
            "cores": str(Machine.here().cores),
            "gpus": ", ".join(gpus) or "none",
        },
    )


def _without_password(words: list[str]) -> list[str]:
    """What was typed, less the password in a storage's URL."""
    words = [re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", word) for word in words]
    return [re.sub(r"([?&]password=)[^&]*", r"\1***", word) for word in words]
