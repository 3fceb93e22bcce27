"""Beginning a study, or taking it up again: one driver at a time, and nothing incomparable."""

import contextlib
import datetime
import importlib.metadata
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import filelock
import torch

from cityseg.config import difference
from cityseg.data import fingerprint
from cityseg.errors import InputError
from cityseg.folds import FoldsFile, write_folds
from cityseg.plan import Plan, plan_folds
from study.resources import Machine
from study.store import DataRecord, Study, StudyRecord


@contextlib.contextmanager
def only_driver(study: Study) -> Iterator[None]:
    """Hold the study's lock: two drivers would train the same cells into each other.

    Raises:
        InputError: another driver holds it.
    """
    lock = filelock.FileLock(study.lock_file)
    try:
        with lock.acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise InputError(
            f"study {study.folder.name} is being run by another process",
            remedy="wait for it, or give another --name",
        ) from None


def begin(study: Study, plan: Plan, folds_file: Path | None) -> None:
    """Write a new study's folds and record, or check that the existing study is the same one.

    A study of which no epoch was finished yet holds nothing to compare, and is begun anew.

    Raises:
        InputError: the folder holds a study of another configuration, data set or split.
    """
    kept = study.has_epochs()
    folds = study.read_folds() if kept and not folds_file else plan_folds(plan, folds_file)
    record = describe(study, plan, folds)
    if kept:
        refuse_changes(study, record)
        record = study.read().model_copy(update={"config": record.config, "data": record.data})
    else:
        write_folds(study.folds_file, folds)
    study.write(record)


def refuse_changes(study: Study, new: StudyRecord) -> None:
    """Refuse what would mix cells that cannot be compared.

    Raises:
        InputError: with every difference.
    """
    old = study.read()
    changes = difference(old.config.identity(), new.config.identity())
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


def describe(study: Study, plan: Plan, folds: FoldsFile) -> StudyRecord:
    """The record of a study that is begun now."""
    packages = ("cityseg-study", "torch", "torchvision", "ray", "albumentations", "numpy")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cities = Counter(frame.city for frame in plan.frames)
    return StudyRecord(
        name=study.folder.name,
        created=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "study.run", *sys.argv[1:]]),
        data=DataRecord(
            root=plan.root,
            kind=plan.kind,
            frames=len(plan.frames),
            cities=dict(sorted(cities.items())),
            fingerprint=fingerprint(plan.frames),
        ),
        folds_hash=folds.content_hash(),
        config=plan.config,
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
