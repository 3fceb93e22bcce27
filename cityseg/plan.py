"""From what was typed to what will be trained: configuration, data set and folds."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cityseg import minicity
from cityseg.config import Config, load, shipped
from cityseg.data import Frame, Kind, index, kind, resolve_root
from cityseg.errors import InputError
from cityseg.folds import FoldsFile, check_folds, make_folds, read_folds


@dataclass(frozen=True)
class Plan:
    """A configuration and the data set that it is for."""

    config: Config
    source: Path
    """The YAML file that the configuration came from."""
    root: Path
    kind: Kind
    frames: list[Frame]
    """All of the train split."""

    def describe_data(self) -> str:
        """One line: which data set, why, and how large."""
        cities = Counter(frame.city for frame in self.frames)
        what = {
            "synthetic": "the embedded synthetic city",
            "cityscapes": "Cityscapes",
            "other": "a data set in the Cityscapes layout",
        }[self.kind]
        return f"data: {what}, {len(self.frames)} train frames of {len(cities)} cities, {self.root}"


def resolve(
    config: Path | None,
    data: Path | None,
    folds: int | None,
    grouping: Literal["frames", "cities"] | None,
    seed: int | None,
    overrides: tuple[str, ...],
) -> Plan:
    """Settle configuration and data.

    Data: as given, else the environment's CITYSCAPES_DATASET, else the embedded city (generated
    once and kept in the user's cache). Configuration: as given, else the paper's, or demo.yaml for
    the embedded city. `KEY=VALUE` overrides win over the options, those over the file.

    Raises:
        InputError: a bad setting, or no data set there.
    """
    root = resolve_root(data)
    source = config or shipped("paper.yaml" if root else "demo.yaml")
    options = {"folds.count": folds, "folds.grouping": grouping, "seed": seed}
    words = tuple(f"{key}={value}" for key, value in options.items() if value is not None)
    settings = load(source, (*words, *overrides))
    root = root or minicity.ensure(settings.city)
    frames = index(root, "train")
    return Plan(settings, source, root, kind(root, frames), frames)


def plan_folds(plan: Plan, folds_file: Path | None) -> FoldsFile:
    """The split of the plan's frames: one's own, or made as the configuration says.

    Raises:
        InputError: the file does not fit the data or the number of folds, or too few frames.
    """
    wanted = plan.config.folds
    if folds_file is None:
        folds = make_folds(plan.frames, wanted.count, wanted.grouping, plan.config.fold_seed)
    else:
        folds = read_folds(folds_file)
        check_folds(folds, plan.frames, str(folds_file))
        if len(folds.folds) != wanted.count:
            raise InputError(
                f"{folds_file}",
                got=f"{len(folds.folds)} folds",
                expected=f"{wanted.count} (--folds)",
            )
    _check_sizes(folds, len(plan.frames), plan.config.train.batch_size)
    return folds


def _check_sizes(folds: FoldsFile, frames: int, batch_size: int) -> None:
    smallest = frames - max(len(fold) for fold in folds.folds)
    if smallest < batch_size:
        raise InputError(
            "train.batch_size",
            got=batch_size,
            expected=f"at most {smallest}, the frames that the smallest fold trains on",
        )
