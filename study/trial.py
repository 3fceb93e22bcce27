"""One cell of the study as a Ray Tune trial: the same training as `python -m cityseg train`."""

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cityseg import collector

with collector.paused():  # what a new worker waits for
    from ray import tune
    from ray.tune.trainable.function_trainable import wrap_function

    from cityseg import atomic, minicity
    from cityseg.cell import read_epochs
    from cityseg.data import Frame, fingerprint, index
    from cityseg.errors import InputError, TrainingError, TransientError
    from cityseg.findings import changed
    from cityseg.train import train_cell, use_device
    from study.console import epoch_line
    from study.home import open_home
    from study.monitor import Monitor
    from study.objects import StoreError
    from study.resources import Allotment
    from study.store import Study, StudyRecord, variant_name

SLOT: Final = "cell"
"""Ray resource of which a study's own Ray has as many as cells may run at a time."""

PAUSE_S: Final = 10
"""Before a cell is tried again that met what may pass."""

log = logging.getLogger(__name__)


def run_cell(trial: dict[str, Any]) -> None:
    """Train a cell to its end, from wherever it stands; report every epoch once it is committed.

    A failure that would happen again is reported as a result, so that Ray does not retry it; the
    reason is in the cell's folder. Anything else is raised, and retried from the last epoch; what
    may pass, such as a full disk, after a pause.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    home = open_home(trial["study"], "worker")
    study, cell = home.study, home.study.cell(trial["variant"], trial["fold"])
    with home.training(trial["variant"], trial["fold"]) as commit:
        try:
            train(study, trial, commit)
        except (StoreError, TransientError) as error:
            log.error("%s stopped: %s", trial_name(trial), error)
            time.sleep(PAUSE_S)
            raise
        except (InputError, TrainingError) as error:
            log.error("%s failed: %s", trial_name(trial), error)
            # also where the failure came before the training
            atomic.write_text(cell.failure, f"{error}\n")
            commit()
            tune.report({"failed": str(error)})


def train(study: Study, trial: dict[str, Any], commit: Callable[[], None]) -> None:
    """Train a cell to its end.

    Raises:
        InputError, TrainingError: a failure that would happen again.
        StoreError: what was trained cannot be committed.
        TransientError: as `train_cell`.
    """
    variant, fold = trial["variant"], trial["fold"]
    record, cell = study.read(), study.cell(variant, fold)
    config = study.config(variant, record)
    resources = record.config.resources.model_copy(update={"cpus_per_trial": trial["cpus"]})
    config = config.model_copy(update={"resources": resources})
    train, val = study.folds_of(record).split(frames_here(record), fold)
    shown = Monitor(record.name, variant, fold, cell.folder, read_epochs(cell.epochs))
    with shown as monitor:
        for epoch in train_cell(config, train, val, cell, use_device(resources)):
            log.info(epoch_line(variant, fold, epoch, config.train.epochs))
            monitor.epoch(epoch)
            commit()
            tune.report(asdict(epoch))
    commit()


def frames_here(record: StudyRecord) -> list[Frame]:
    """The study's frames on this machine: at the same path, else as a user of it would find them.

    Raises:
        InputError: they are not here, or are others.
    """
    data = record.data
    places = [data.root, Path(os.environ.get("CITYSCAPES_DATASET") or data.root)]
    root = next((place for place in places if place.is_dir()), data.root)
    if data.kind == "synthetic" and not root.is_dir():
        root = minicity.ensure(record.config.city)
    frames = index(root, "train")
    if fingerprint(frames) != data.fingerprint:
        others = [frame.name for frame in changed(frames)]
        named = f"; {len(others)} frames have changed, the first {others[0]}" if others else ""
        raise InputError(
            f"{root} on {os.uname().nodename} is not the data set that the study began with{named}",
            remedy="give every machine the same one at the same path, or by CITYSCAPES_DATASET",
        )
    return frames


class Fold(wrap_function(run_cell)):
    """`run_cell` under a name that Ray's dashboard shows well: such as `v003_fold=1`.

    `tune.with_resources` would show every trial as `with_resources.<locals>.ResourceTrainable`. A
    worker gets this class by its name, so that the first that it imports is this module.
    """

    def __repr__(self) -> str:
        return trial_name(self.config)


def trainable(allotment: Allotment, slotted: bool) -> type[tune.Trainable]:
    """`Fold` with its resources.

    Args:
        allotment: what a cell gets.
        slotted: whether the Ray at hand is our own and counts slots.
    """
    needs = {"CPU": allotment.cpus, "GPU": allotment.gpus, SLOT: int(slotted)}
    needs = {name: amount for name, amount in needs.items() if amount}

    class Sized(Fold):
        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([needs])

    Sized.__name__ = Sized.__qualname__ = Fold.__name__
    return Sized


def trial_name(config: dict[str, Any]) -> str:
    """Such as `v003_fold=1`."""
    return f"{variant_name(config['variant'])}_fold={config['fold']}"
