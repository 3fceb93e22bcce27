"""One cell of the study as a Ray Tune trial: the same training as `python -m cityseg train`."""

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ray import tune
from ray.tune.trainable.function_trainable import wrap_function

from cityseg import atomic
from cityseg.data import index
from cityseg.errors import InputError, TrainingError
from cityseg.train import train_cell, use_device
from study.console import epoch_line
from study.resources import Allotment
from study.store import Study

SLOT: Final = "cell"
"""Ray resource of which a study's Ray has as many as cells may run at a time."""

log = logging.getLogger(__name__)


def run_cell(trial: dict[str, Any]) -> None:
    """Train a cell to its end, from wherever it stands on disk; report every epoch.

    A failure that would happen again is reported as a result, so that Ray does not retry it; the
    reason is in the cell's folder. Anything else is raised, and retried from the last epoch.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    study, fold = Study(Path(trial["study"])), trial["fold"]
    cell = study.cell(trial["variant"], fold)
    try:
        record = study.read()
        resources = record.config.resources.model_copy(update={"cpus_per_trial": trial["cpus"]})
        config = record.config.model_copy(update={"resources": resources})
        train, val = study.read_folds().split(index(record.data.root, "train"), fold)
        for epoch in train_cell(config, train, val, cell, use_device(resources)):
            log.info(epoch_line(fold, epoch, config.train.epochs))
            tune.report(asdict(epoch))
    except (InputError, TrainingError) as error:
        log.error("fold %d failed: %s", fold, error)
        # also where the failure came before the training
        atomic.write_text(cell.failure, f"{error}\n")
        tune.report({"failed": str(error)})


def trainable(allotment: Allotment) -> type[tune.Trainable]:
    """`run_cell` with its resources, under a name that Ray's dashboard shows well.

    `tune.with_resources` would show every trial as `with_resources.<locals>.ResourceTrainable`.
    """
    needs = {"CPU": allotment.cpus, "GPU": allotment.gpus, SLOT: 1}
    needs = {name: amount for name, amount in needs.items() if amount}

    class Fold(wrap_function(run_cell)):
        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([needs])

        def __repr__(self) -> str:
            return trial_name(self.config)

    return Fold


def trial_name(config: dict[str, Any]) -> str:
    """Such as `v003_fold=1`."""
    return f"v{config['variant']:03d}_fold={config['fold']}"
