"""k folds over a data set's train split: making, writing and checking them.

Folds are numbered from 1. Each frame validates in exactly one fold and trains in all others.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field, ValidationError

from cityseg import atomic
from cityseg.config import LONGEST_SHOWN, Section, shown
from cityseg.data import Frame
from cityseg.errors import InputError
from cityseg.findings import Finding, examine, refuse_broken
from cityseg.labels import NUM_CLASSES

CANDIDATES: Final = 500
"""Seeded assignments of cities to folds that are compared."""

IMPROVED: Final = 20
"""The best of them, which are improved further."""


class FoldsFile(Section):
    """folds.json: which frames validate in which fold."""

    version: Literal[1] = 1
    grouping: Literal["frames", "cities", "given"] = "given"
    seed: int | None = None
    folds: Annotated[list[list[str]], Field(min_length=2)]
    """Names of the frames that validate in fold 1, 2, ..., each sorted."""
    hash: str | None = None
    """sha256 of the folds above; written by us and then checked at every read."""

    def content_hash(self) -> str:
        """sha256 over the folds' frame names, in order."""
        return hashlib.sha256(json.dumps(self.folds).encode()).hexdigest()

    def describe(self) -> str:
        """One line: how many folds, by what, and how many frames validate in each."""
        sizes = ", ".join(str(len(fold)) for fold in self.folds)
        how = "as given" if self.grouping == "given" else f"by {self.grouping}, seed {self.seed}"
        return f"folds: {len(self.folds)} {how}, of {sizes} frames"

    def split(self, frames: list[Frame], fold: int) -> tuple[list[Frame], list[Frame]]:
        """Training and validation frames of a fold (from 1), sorted by name.

        Raises:
            InputError: no such fold.
        """
        if not 1 <= fold <= len(self.folds):
            raise InputError("fold", got=fold, expected=f"1 to {len(self.folds)}")
        names = set(self.folds[fold - 1])
        train = [frame for frame in frames if frame.name not in names]
        return train, [frame for frame in frames if frame.name in names]


def make_folds(
    frames: list[Frame],
    count: int,
    grouping: Literal["frames", "cities"],
    seed: int,
    examine: Callable[[list[Frame]], list[Finding]] = examine,
) -> FoldsFile:
    """Split frames into `count` folds.

    frames: a seeded shuffle (scikit-learn's KFold), the paper's; neighbouring frames of one city
    then stand on both sides. cities: whole cities, balanced in frames, and with every class in
    every fold where the data allow it; for these, `examine` reads all frames.

    Raises:
        InputError: fewer frames, or cities, than folds; a frame that cannot be read.
    """
    groups = len({frame.city for frame in frames}) if grouping == "cities" else len(frames)
    if groups < count:
        raise InputError(f"cannot make {count} folds", got=f"{groups} {grouping}")
    if grouping == "cities":
        folds = _group_cities(frames, examine(frames), count, seed)
    else:
        from sklearn.model_selection import KFold  # a second to import: not where folds are read

        splitter = KFold(count, shuffle=True, random_state=seed)
        folds = [[frames[i].name for i in val] for _, val in splitter.split(frames)]
    made = FoldsFile(grouping=grouping, seed=seed, folds=[sorted(fold) for fold in folds])
    return made.model_copy(update={"hash": made.content_hash()})


def _group_cities(
    frames: list[Frame], found: list[Finding], count: int, seed: int
) -> list[list[str]]:
    refuse_broken(found)
    classes = _classes_of_cities(frames, found)
    fold_of = assign_cities(Counter(frame.city for frame in frames), classes, count, seed)
    return [[frame.name for frame in frames if fold_of[frame.city] == k] for k in range(count)]


def _classes_of_cities(
    frames: list[Frame], found: list[Finding]
) -> dict[str, Bool[np.ndarray, "19"]]:
    """Which classes occur in each city's labels."""
    occurs = {frame.city: np.zeros(NUM_CLASSES, bool) for frame in frames}
    for frame, finding in zip(frames, found, strict=True):
        occurs[frame.city] |= finding.classes()
    return occurs


def assign_cities(
    frames_of: Mapping[str, int],
    classes_of: Mapping[str, Bool[np.ndarray, " c"]],
    count: int,
    seed: int,
) -> dict[str, int]:
    """Fold (from 0) of each city: fewest missing classes first, then the most even frame counts.

    scikit-learn's GroupKFold balances frames but knows no classes, and StratifiedGroupKFold wants
    one class a sample. Here seeded greedy assignments (cities in random order, each to the fold
    with the fewest frames) are compared, the first of them in order of size; the best few are
    then improved by moving and swapping cities, as even sizes may keep a class out of a fold.
    """
    cities = sorted(frames_of, key=lambda city: (-frames_of[city], city))
    random = np.random.default_rng(seed)
    shuffled = ([cities[i] for i in random.permutation(len(cities))] for _ in range(CANDIDATES))
    candidates = [_fill_greedily(order, frames_of, count) for order in (cities, *shuffled)]

    def badness(fold_of: dict[str, int]) -> tuple[int, int]:
        return _badness(fold_of, frames_of, classes_of, count)

    starts = sorted(candidates, key=badness)[:IMPROVED]
    return min((_improve(start, count, badness) for start in starts), key=badness)


def _improve(
    fold_of: dict[str, int], count: int, badness: Callable[[dict[str, int]], tuple[int, int]]
) -> dict[str, int]:
    """Move one city or swap two, whichever helps most, until nothing helps."""
    while True:
        moved = [{**fold_of, city: fold} for city in fold_of for fold in range(count)]
        swapped = [{**fold_of, a: fold_of[b], b: fold_of[a]} for a, b in combinations(fold_of, 2)]
        best = min((*moved, *swapped), key=badness)
        if badness(best) >= badness(fold_of):
            return fold_of
        fold_of = best


def _fill_greedily(order: list[str], frames_of: Mapping[str, int], count: int) -> dict[str, int]:
    sizes = [0] * count
    fold_of = {}
    for city in order:
        fold_of[city] = sizes.index(min(sizes))
        sizes[fold_of[city]] += frames_of[city]
    return fold_of


def _badness(
    fold_of: Mapping[str, int],
    frames_of: Mapping[str, int],
    classes_of: Mapping[str, Bool[np.ndarray, " c"]],
    count: int,
) -> tuple[int, int]:
    """Missing (fold, class) pairs, then the spread of the folds' sizes."""
    sizes = [0] * count
    occurs = np.zeros((count, len(next(iter(classes_of.values())))), bool)
    for city, fold in fold_of.items():
        sizes[fold] += frames_of[city]
        occurs[fold] |= classes_of[city]
    return int((~occurs).sum()), max(sizes) - min(sizes)


def write_folds(path: Path, folds: FoldsFile) -> None:
    """Write folds.json, with its hash."""
    hashed = folds.model_copy(update={"hash": folds.content_hash()})
    atomic.write_text(path, hashed.model_dump_json(indent=1) + "\n")


def read_folds(path: Path) -> FoldsFile:
    """Read a folds file; one's own needs only `{"folds": [[names], [names], ...]}`.

    Raises:
        InputError: unreadable, of another form, or its hash does not fit its folds.
    """
    try:
        folds = FoldsFile.model_validate(read_object(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])[:LONGEST_SHOWN]
        raise InputError(f"{path}: {key or 'content'}", got=first["msg"]) from None
    if folds.hash not in (None, folds.content_hash()):
        raise InputError(
            f"{path} was changed since it was written",
            got=f"hash {folds.hash[:12] if folds.hash else None}",
            expected=folds.content_hash()[:12],
            remedy="restore it, or start a new study with --folds-file and the hash taken out",
        )
    return folds.model_copy(update={"hash": folds.content_hash()})


def read_object(path: Path) -> dict[str, object]:
    """A JSON file that holds one object, in which no key stands twice.

    Raises:
        InputError: it cannot be read or is none.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error.strerror) from None
    except (ValueError, RecursionError) as error:  # also of bytes that are no text
        raise InputError(f"{path}: content", got=f"Invalid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: content", got=shown(content), expected="an object")
    return content


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"the key {shown(repeated[0])} stands twice")
    return dict(pairs)


def check_folds(folds: FoldsFile, frames: list[Frame], source: str) -> None:
    """Refuse folds that do not fit the data: each frame must stand in exactly one.

    Raises:
        InputError: a frame in two folds, an unknown name, a frame in none, an empty fold.
    """
    counts = Counter(name for fold in folds.folds for name in fold)
    known = {frame.name for frame in frames}
    for problem, names in {
        "in more than one fold": [name for name, times in counts.items() if times > 1],
        "in a fold but not in the data": [name for name in counts if name not in known],
        "in the data but in no fold": sorted(known - counts.keys()),
        "empty": [f"fold {k}" for k, fold in enumerate(folds.folds, 1) if not fold],
    }.items():
        if names:
            raise InputError(f"{source}: {len(names)} {problem}, the first {names[0]}")
