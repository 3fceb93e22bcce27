"""Checking a data set against the Cityscapes layout: everything that is wrong, at once."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool

from cityseg.config import Folds
from cityseg.data import IMAGE_SUFFIX, LABEL_SUFFIX, Frame, Split, city_of
from cityseg.disguise import looks_like_train_ids
from cityseg.errors import InputError, counted, first_of
from cityseg.findings import Finding, examine
from cityseg.folds import FoldsFile, check_folds, make_folds
from cityseg.labels import CLASS_NAMES, is_official

NAMES_SHOWN: Final = 3
"""Problems that a message lists before it only counts them."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    path: Path
    """The file or folder, relative to the data set's root."""
    what: str
    grave: bool = True
    """Nothing can be trained or scored with it; else it is worth a warning."""

    def __str__(self) -> str:
        return f"{'' if self.grave else 'warning: '}{self.path}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What a split holds."""

    split: Split
    counts: dict[str, int]
    """Frames that have both image and label, by city, sorted; sound or not."""
    problems: list[Problem]
    """Sorted by path."""


def verify(
    root: Path,
    split: Split,
    processes: int | None = None,
    folds: Folds | FoldsFile | None = None,
) -> Report:
    """Read every file of a split and list all that training or scoring would trip over.

    Checked are file names against city folders, pairs of image and label, that both are whole PNG
    files of their mode and of one size, label ids against the official table, that each label map
    scores some pixel, frames of the same content, labels that look like train ids, and of folds,
    whether they can be made, and which classes they lack.

    Args:
        root: the data set.
        split: `test` has no public labels: all of Cityscapes' own are ignored there.
        processes: by default one a core where there are frames enough.
        folds: into which the split is to be cut.

    Raises:
        InputError: there is no folder `root`.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}", remedy="give the data set's root by --data")
    images, image_problems = _by_name(root, "leftImg8bit", split, IMAGE_SUFFIX)
    labels, label_problems = _by_name(root, "gtFine", split, LABEL_SUFFIX)
    names = sorted(images.keys() & labels.keys())
    frames = [Frame(n, images[n].parent.name, root / images[n], root / labels[n]) for n in names]
    found = examine(frames, processes)
    problems = [
        *image_problems,
        *label_problems,
        *_unpaired(images, labels, "label"),
        *_unpaired(labels, images, "image"),
        *check(root, frames, found),
        *_check_folds(root, frames, found, folds),
    ]
    counts = Counter(frame.city for frame in frames)
    in_order = sorted(problems, key=lambda problem: (str(problem.path), problem.what))
    return Report(split, dict(sorted(counts.items())), in_order)


def check_names(root: Path, split: Split) -> list[Problem]:
    """What stands in a split and is no frame by its name, and folders that are links to nothing.

    Reads nothing. `data.index` passes most of it over; whole cities could be missing so.
    """
    kinds = (("leftImg8bit", IMAGE_SUFFIX), ("gtFine", LABEL_SUFFIX))
    return [problem for kind, suffix in kinds for problem in _by_name(root, kind, split, suffix)[1]]


def check(root: Path, frames: Sequence[Frame], found: Sequence[Finding]) -> list[Problem]:
    """All that is wrong with frames, by what was found in each.

    Args:
        root: paths are told relative to it.
        frames: of one split.
        found: in the frames' order.
    """
    each = [
        Problem(_within(root, path), what, grave)
        for frame, finding in zip(frames, found, strict=True)
        for path, what, grave in _of_frame(frame, finding)
    ]
    pairs = list(zip(frames, found, strict=True))
    return [*each, *_repeated(root, pairs), *_disguised(root, pairs), *_odd_names(root, frames)]


def check_split(
    root: Path, frames: Sequence[Frame], found: Sequence[Finding], folds: FoldsFile
) -> list[Problem]:
    """What is wrong with frames once they are split into folds.

    A frame that stands, under two names, on both sides of a split makes its scores untrue. A class
    that a fold lacks, or that only one fold has, makes them hard to read.
    """
    fold_of = {name: k for k, names in enumerate(folds.folds, 1) for name in names}
    problems: list[Problem] = []
    for same in _same_content(zip(frames, found, strict=True)):
        first = same[0]
        other = next((f for f in same if fold_of[f.name] != fold_of[first.name]), None)
        if other is not None:
            problems.append(Problem(
                _within(root, other.image),
                f"is in fold {fold_of[other.name]} and, as {first.name}, in fold "
                f"{fold_of[first.name]}: a network would be scored on what it was trained on; "
                "remove one of them, or put both into one fold by --folds-file",
            ))  # fmt: skip
    occurs = np.zeros((len(folds.folds), len(CLASS_NAMES)), bool)
    for frame, finding in zip(frames, found, strict=True):
        occurs[fold_of[frame.name] - 1] |= finding.classes()
    return problems + [Problem(Path("gtFine/train"), what, False) for what in _lacking(occurs)]


def refuse(root: Path, problems: Sequence[Problem]) -> None:
    """Refuse data with a grave problem.

    Raises:
        InputError: the first problems in full, and how many more there are.
    """
    grave = [problem for problem in problems if problem.grave]
    if grave:
        raise InputError(
            f"{root}: {counted(len(grave), 'problem')}: {first_of(grave, NAMES_SHOWN)}",
            remedy=f"list them all with: python -m cityseg verify --data {root}",
        )


def _by_name(
    root: Path, kind: str, split: Split, suffix: str
) -> tuple[dict[str, Path], list[Problem]]:
    """Files of one kind by frame name, relative to the root, and those whose name is wrong."""
    folder = root / kind / split
    if not folder.is_dir():
        return {}, [Problem(folder.relative_to(root), "no such folder")]
    # A leftImg8bit folder holds frames alone, gtFine holds other kinds of file as well.
    pattern = "[!.]*" if kind == "leftImg8bit" else "[!.]*_labelIds.png"
    files = [path.relative_to(root) for path in sorted(folder.glob(f"*/{pattern}"))]
    named = {p.name.removesuffix(suffix): p for p in files if _is_named(p, suffix)}
    strays = [  # the wrong name of a frame, or what is no frame at all, such as Thumbs.db
        Problem(p, f"is not named {p.parent.name}_000000_000000{suffix}", p.name.endswith(suffix))
        for p in files
        if not _is_named(p, suffix)
    ]
    loops = [
        Problem(path.relative_to(root), "is a link that leads nowhere, or to itself")
        for path in sorted(folder.glob("*"))
        if path.is_symlink() and not path.exists()
    ]
    empty = [] if named else [Problem(folder.relative_to(root), f"holds no *{suffix}")]
    return named, strays + loops + empty


def _is_named(path: Path, suffix: str) -> bool:
    return (
        path.name.endswith(suffix) and city_of(path.name.removesuffix(suffix)) == path.parent.name
    )


def _unpaired(ours: dict[str, Path], theirs: dict[str, Path], kind: str) -> Iterator[Problem]:
    """Names without their counterpart; also if it is there in other bytes for the same letters."""
    folded = {unicodedata.normalize("NFC", name) for name in theirs}
    for name in sorted(ours.keys() - theirs.keys()):
        twin = unicodedata.normalize("NFC", name) in folded
        how = ": its name is written in another Unicode form (NFC, NFD)" if twin else ""
        yield Problem(ours[name], f"has no {kind}{how}")


def _of_frame(frame: Frame, finding: Finding) -> Iterator[tuple[Path, str, bool]]:
    for path, what in finding.broken:
        yield Path(path), what, True
    values = [value for value, _ in finding.pixels]
    unknown = [value for value in values if not is_official(value)]
    if unknown:
        yield frame.label, f"ids {unknown} are not in the official table", True
    if values and not finding.classes().any():
        yield frame.label, "no pixel is of the 19 scored classes", False


def _same_content(pairs: Iterator[tuple[Frame, Finding]]) -> list[list[Frame]]:
    """Frames whose images are equal, pixel by pixel, in groups."""
    by_digest: dict[str, list[Frame]] = defaultdict(list)
    for frame, finding in pairs:
        if finding.digest:
            by_digest[finding.digest].append(frame)
    return [same for same in by_digest.values() if len(same) > 1]


def _repeated(root: Path, pairs: Sequence[tuple[Frame, Finding]]) -> list[Problem]:
    return [
        Problem(_within(root, frame.image), f"is the same picture as {same[0].name}", False)
        for same in _same_content(iter(pairs))
        for frame in same[1:]
    ]


def _disguised(root: Path, pairs: Sequence[tuple[Frame, Finding]]) -> list[Problem]:
    """Cities whose labels look like train ids; frames without a scored pixel tell nothing."""
    by_city: dict[Path, np.ndarray] = {}
    for frame, finding in pairs:
        if finding.classes().any():
            folder = _within(root, frame.label.parent)
            by_city[folder] = by_city.get(folder, np.zeros(256, np.int64)) + finding.histogram()
    what = (
        "its labels look like train ids (0-18) under the name of label ids (0-33): "
        "was *_labelTrainIds.png copied?"
    )
    return [Problem(city, what, False) for city, n in by_city.items() if looks_like_train_ids(n)]


def _odd_names(root: Path, frames: Sequence[Frame]) -> list[Problem]:
    """They are no problem here; other programs may think otherwise."""
    odd = [frame for frame in frames if not frame.name.isascii() or " " in frame.name]
    if not odd:
        return []
    path = _within(root, odd[0].image)
    names = counted(len(odd), "name")
    what = f"spaces or letters beyond ASCII in {names}; not every program reads these"
    return [Problem(path, what, False)]


def _check_folds(
    root: Path, frames: list[Frame], found: list[Finding], wanted: Folds | FoldsFile | None
) -> list[Problem]:
    if wanted is None or not frames or any(finding.broken for finding in found):
        return []
    try:
        if isinstance(wanted, FoldsFile):
            check_folds(wanted, frames, "folds")
            return check_split(root, frames, found, wanted)
        folds = make_folds(frames, wanted.count, wanted.grouping, wanted.seed or 0, lambda _: found)
    except InputError as error:
        return [Problem(Path("leftImg8bit/train"), str(error))]
    return check_split(root, frames, found, folds)


def _lacking(occurs: Bool[np.ndarray, "folds 19"]) -> Iterator[str]:
    """Classes that a fold lacks, and those that a fold's network never saw."""
    nowhere = occurs.sum(0) == 0
    if nowhere.any():
        yield f"{_names(nowhere)}: in no label, and so in no score"
    for fold, there in enumerate(occurs, 1):
        absent = ~there & ~nowhere
        if absent.any():
            yield f"{_names(absent)}: in no label of fold {fold}, whose mean is over other classes"
        unseen = there & (occurs.sum(0) == 1)
        if unseen.any():
            yield f"{_names(unseen)}: in labels of fold {fold} alone, whose network never sees it"


def _names(which: Bool[np.ndarray, "19"]) -> str:
    return ", ".join(CLASS_NAMES[i] for i in np.flatnonzero(which))


def _within(root: Path, path: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
