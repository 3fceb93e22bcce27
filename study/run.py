"""`python -m study.run`: k-fold cross-validation, one Ray Tune trial a fold, resumable at will."""

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from cityseg.errors import INTERRUPTED, InputError, user_command
from cityseg.model import encoder_weights
from cityseg.plan import Plan, resolve
from study.analysis import fold_table, read_variant
from study.begin import begin, only_driver
from study.console import Watch
from study.resources import Machine, allot, check_disk, disk_bytes
from study.store import Study
from study.tables import fold_caption, fold_text, show


@dataclass(frozen=True)
class Arguments:
    """Cross-validate a configuration: train and score one network for each fold.

    Starting the same study again continues it from the last finished epoch of every fold.
    """

    overrides: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE")
    ] = ()
    """Settings that replace the configuration's, such as train.lr=3e-4."""
    folds: int | None = None
    """Number of folds (folds.count)."""
    config: Path | None = None
    """YAML file; by default configs/paper.yaml, or configs/demo.yaml for the embedded city."""
    data: Path | None = None
    """Root of a data set in the Cityscapes layout; by default $CITYSCAPES_DATASET, else the
    embedded synthetic city."""
    name: str | None = None
    """The study's folder within --results; by default named after the configuration."""
    results: Path = Path("results")
    """Folder of all studies."""
    grouping: Literal["frames", "cities"] | None = None
    """What is kept together in one fold (folds.grouping)."""
    seed: int | None = None
    """Seed of all random draws (seed)."""
    folds_file: Path | None = None
    """Your own split: JSON such as {"folds": [[frame names], [frame names]]}."""
    dashboard: bool = True
    """Ray's dashboard, on 127.0.0.1."""


@user_command
def main() -> int:
    """Run the command line; returns its exit code."""
    arguments = tyro.cli(
        Arguments, prog="python -m study.run", description=inspect.getdoc(Arguments)
    )
    console = Console(soft_wrap=True, highlight=False)
    plan = resolve(
        arguments.config,
        arguments.data,
        arguments.folds,
        arguments.grouping,
        arguments.seed,
        arguments.overrides,
    )
    console.print(f"configuration: {plan.source}", plan.describe_data(), sep="\n", markup=False)
    study = study_folder(arguments, plan)
    with only_driver(study):
        begin(study, plan, arguments.folds_file)
        console.print(study.read_folds().describe(), markup=False)
        run_cells(study, console, arguments.dashboard)
        return conclude(study, console)


def study_folder(arguments: Arguments, plan: Plan) -> Study:
    """The study's folder, made if need be.

    Raises:
        InputError: a name that is not one folder's, or a folder that cannot be made.
    """
    name = plan.source.stem if arguments.name is None else arguments.name
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError("--name", got=repr(name), expected="the name of one folder")
    study = Study((arguments.results / name).resolve())
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {study.folder}", got=error.strerror) from None
    return study


def run_cells(study: Study, console: Console, dashboard: bool) -> None:
    """Train all cells that are not done; returns early when interrupted.

    Raises:
        InputError: the encoder's weights or the disk space are not to be had.
    """
    record = study.read()
    config = record.config
    folds = range(1, config.folds.count + 1)
    todo = [fold for fold in folds if study.cell(0, fold).status() != "done"]
    if not todo:
        return
    encoder_weights(config.model)  # fetched here once, before all cells want it
    machine = Machine.here()
    allotment = allot(config, len(folds), machine, record.cpus_per_trial)
    needed = disk_bytes(config, len(todo), allotment.slots)
    check_disk(study.folder, needed)
    console.print(f"{allotment.describe(machine)}; disk: up to {needed / 1e9:.1f} GB")
    study.write(record.model_copy(update={"cpus_per_trial": allotment.cpus}))
    from study.tuning import train_cells  # Ray takes seconds to import: not before it is needed

    train_cells(Watch(study, console), todo, allotment, dashboard)


def conclude(study: Study, console: Console) -> int:
    """Print how the study stands and where it lies; 0 only if every fold is done."""
    table = fold_table(read_variant(study))
    show(console, fold_text(table), fold_caption(table))
    console.print(f"all of it is in {study.folder}", markup=False)
    statuses = {cell.status for cell in table.cells}
    if statuses == {"done"}:
        console.print(f"figures, tables: python -m study.analyze {study.folder}", markup=False)
        return 0
    console.print("not all folds are done; continue with the same command", style="bold")
    return 1 if statuses <= {"done", "failed"} else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
