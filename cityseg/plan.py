"""From what was typed to what will be trained: configuration, data set and folds."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cityseg import findings, minicity
from cityseg.cache import frame_reader
from cityseg.config import STUDY_SECTION, Config, Train, override, parse, read_settings, shipped
from cityseg.data import Frame, Kind, index, kind, resolve_root
from cityseg.errors import InputError, counted
from cityseg.findings import Finding
from cityseg.folds import FoldsFile, check_folds, make_folds, read_folds
from cityseg.verify import check, check_names, check_split, refuse

log = logging.getLogger(__name__)


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
    search: dict[str, Any] = field(default_factory=dict)
    """The configuration's `search` section, not validated: it is the study's."""

    def describe_data(self) -> str:
        """One line: which data set, why, and how large."""
        frames = counted(len(self.frames), "train frame")
        cities = counted(len({frame.city for frame in self.frames}), "city", "cities")
        what = {
            "synthetic": "the embedded synthetic city",
            "cityscapes": "Cityscapes",
            "other": "a data set in the Cityscapes layout",
        }[self.kind]
        return f"data: {what}, {frames} of {cities}, {self.root}"


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
    the embedded city; a file that holds nothing but a `search` section is laid over these.
    `KEY=VALUE` overrides win over the options, those over the file.

    Raises:
        InputError: a bad setting, or no data set there.
    """
    root = resolve_root(data)
    usual = shipped("paper.yaml" if root else "demo.yaml")
    source = config or usual
    options = {"folds.count": folds, "folds.grouping": grouping, "seed": seed}
    words = tuple(f"{key}={value}" for key, value in options.items() if value is not None)
    settings = read_settings(source)
    if set(settings) == {STUDY_SECTION}:
        settings |= read_settings(usual)
    settings = override(settings, (*words, *overrides))
    search = settings.pop(STUDY_SECTION, None)
    parsed = parse(settings, source=str(source))
    root = root or minicity.ensure(parsed.city)
    frames = index(root, "train")
    return Plan(parsed, source, root, kind(root, frames), frames, _as_mapping(search, source))


def _as_mapping(search: object, source: Path) -> dict[str, Any]:
    if search is None:
        return {}
    if not isinstance(search, dict):
        raise InputError(f"{source}: {STUDY_SECTION}", got=repr(search), expected="a mapping")
    return search


def examine(plan: Plan, decode: bool) -> list[Finding]:
    """What reading the plan's frames tells; what is known of files as they are is not read again.

    Args:
        plan: its frames are read.
        decode: frames that must be read are decoded into the cache on the way, if they are to be.

    Raises:
        InputError: frames that cannot be decoded, or no room for the cache.
    """
    if decode and None in findings.recall(plan.frames).values():
        frame_reader(plan.frames, plan.config)
    return findings.examine(plan.frames)


def check_data(plan: Plan, folds: FoldsFile, found: list[Finding]) -> None:
    """Warn of all that is odd about the plan's data, and refuse what is wrong.

    Raises:
        InputError: with the first of what is wrong, and how much more there is.
    """
    problems = check_names(plan.root, "train")
    problems += check(plan.root, plan.frames, found)
    problems += check_split(plan.root, plan.frames, found, folds)
    for problem in problems:
        if not problem.grave:
            log.warning("%s", problem)
    refuse(plan.root, problems)


def plan_folds(
    plan: Plan,
    folds_file: Path | None,
    examine: Callable[[list[Frame]], list[Finding]] = findings.examine,
) -> FoldsFile:
    """The split of the plan's frames: one's own, or made as the configuration says.

    Args:
        plan: configuration and frames.
        folds_file: one's own split.
        examine: reads all frames, for folds of cities.

    Raises:
        InputError: the file does not fit the data or the number of folds, or too few frames.
    """
    wanted = plan.config.folds
    if folds_file is None:
        seed = plan.config.fold_seed
        folds = make_folds(plan.frames, wanted.count, wanted.grouping, seed, examine)
    else:
        folds = read_folds(folds_file)
        check_folds(folds, plan.frames, str(folds_file))
        if len(folds.folds) != wanted.count:
            raise InputError(
                f"{folds_file}",
                got=f"{len(folds.folds)} folds",
                expected=f"{wanted.count} (--folds)",
            )
    check_batch(folds, plan.config.train)
    return folds


def check_batch(folds: FoldsFile, train: Train) -> None:
    """Refuse a step for which the training part of a fold has too few frames.

    Raises:
        InputError: with the largest possible.
    """
    sizes = [len(fold) for fold in folds.folds]
    fewest = sum(sizes) - max(sizes)
    if fewest < train.step_size:
        raise InputError(
            "train.batch_size" + " x train.accumulate" * (train.accumulate > 1),
            got=train.step_size,
            expected=f"at most {fewest}, the fewest frames that a fold's network is trained on",
        )
