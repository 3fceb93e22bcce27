"""The command `python -m cityseg`: train one cell, verify, prepare; `commands` holds the others.

What needs torch is imported by the commands that need it, so that the others start at once, and
so do the processes that read files.
"""

import functools
import json as json_format
import logging
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import tyro
from rich.console import Console
from rich.table import Table

from cityseg import collector, commandline
from cityseg.commands.evaluate import Evaluate
from cityseg.commands.export import Export
from cityseg.commands.pictures import Predict, Submit
from cityseg.data import Frame, Split, index, require_root, resolve_root
from cityseg.errors import INTERRUPTED, InputError, counted, printable, user_command

if TYPE_CHECKING:
    from cityseg.cell import Cell, Epoch
    from cityseg.config import Folds
    from cityseg.folds import FoldsFile


@dataclass(frozen=True)
class Train:
    """Train one cell: one configuration on one fold. The same command again continues it."""

    settings: tyro.conf.Positional[tuple[str, ...]] = ()
    """KEY=VALUE settings over the configuration's, such as train.lr=3e-4."""
    fold: int = field(kw_only=True)
    """Which fold validates, from 1."""
    folds: int | None = None
    """Into how many folds the train split is cut."""
    grouping: Literal["frames", "cities"] | None = None
    """frames: shuffled, as in the paper. cities: no city on both sides."""
    seed: int | None = None
    """Of every random draw."""
    config: Path | None = None
    """YAML file; by default configs/paper.yaml, or configs/demo.yaml on the embedded city."""
    data: Path | None = None
    """Root of the data set; by default $CITYSCAPES_DATASET, else the embedded city."""
    folds_file: Path | None = None
    """A folds.json to split by."""
    out: Path | None = None
    """Folder of the cell; by default results/cell-CONFIG-fFOLD."""
    cache_dir: Path | None = None
    """Folder of the decoded frames, on a local disk (resources.cache_dir)."""

    def run(self) -> int:
        """Train until done, with a line for every epoch."""
        with collector.paused():
            from cityseg.cell import Cell
            from cityseg.findings import Finding
            from cityseg.folds import write_folds
            from cityseg.model import encoder_weights
            from cityseg.plan import check_data, examine, plan_folds, resolve
            from cityseg.train import train_cell, use_device

        words = (*_cache_words(self.cache_dir), *self.settings)
        plan = resolve(self.config, self.data, self.folds, self.grouping, self.seed, words)
        print(plan.describe_data(), flush=True)
        cell = Cell(self.out or Path("results") / f"cell-{plan.source.stem}-f{self.fold}")
        was_done = cell.status() == "done"

        @functools.cache
        def examined() -> list[Finding]:
            if not was_done:
                encoder_weights(plan.config.model)  # if they are missing, nothing need be decoded
            return examine(plan, decode=True)

        folds = plan_folds(plan, self.folds_file, lambda _: examined())
        train, val = folds.split(plan.frames, self.fold)
        check_data(plan, folds, examined())
        device = use_device(plan.config.resources)
        try:
            for epoch in train_cell(plan.config, train, val, cell, device):
                print(_epoch_line(epoch, plan.config.train.epochs), flush=True)
        except KeyboardInterrupt:
            print(f"stopped; {_how_to_continue(cell)}", file=sys.stderr)
            return INTERRUPTED
        _check_validated(cell, val)
        write_folds(cell.folder / "folds.json", folds)
        print(_result_line(cell, was_done))
        return 0


@dataclass(frozen=True)
class Verify:
    """Check a data set: names, pairs, sizes, modes and labels of all its files, and its folds."""

    data: Path | None = None
    """Root of the data set; by default $CITYSCAPES_DATASET."""
    split: str | None = None
    """Splits to check, such as train,val; by default train, and val if it is there."""
    folds: int | None = None
    """Into how many folds the train split is to be cut."""
    grouping: Literal["frames", "cities"] | None = None
    """frames: shuffled, as in the paper. cities: no city on both sides."""
    seed: int | None = None
    """Of the split."""
    folds_file: Path | None = None
    """A folds.json to split by."""

    def run(self) -> int:
        """Print counts a city and every problem; exit code 1 if one is more than a warning."""
        from cityseg.verify import verify

        root = require_root(self.data)
        folds = self._folds()
        reports = [
            verify(root, split, folds=folds if split == "train" else None)
            for split in self._splits(root)
        ]
        table = Table("split", "city", "frames", title=str(root))
        for report in reports:
            for city, count in report.counts.items():
                table.add_row(report.split, city, str(count))
            table.add_row(report.split, "all", str(sum(report.counts.values())), end_section=True)
        Console().print(table)
        problems = [problem for report in reports for problem in report.problems]
        for problem in problems:
            print(printable(str(problem)))
        grave = sum(problem.grave for problem in problems)
        told = [counted(grave, "problem") if grave else "no problems"]
        told += [counted(len(problems) - grave, "warning")] if len(problems) > grave else []
        print(", ".join(told) if problems else "nothing wrong")
        return 1 if grave else 0

    def _folds(self) -> "Folds | FoldsFile | None":
        from cityseg.config import Folds, validate
        from cityseg.folds import read_folds

        options = {"count": self.folds, "grouping": self.grouping, "seed": self.seed}
        given = {key: value for key, value in options.items() if value is not None}
        if self.folds_file is None:
            return validate(Folds, given, "folds") if given else None
        if given:
            raise InputError("--folds-file", expected="no --folds, --grouping or --seed beside it")
        return read_folds(self.folds_file)

    def _splits(self, root: Path) -> list[Split]:
        if self.split is None:
            has_val = any((root / kind / "val").exists() for kind in ("leftImg8bit", "gtFine"))
            return ["train", "val"] if has_val else ["train"]
        given = [word.strip() for word in self.split.split(",")]
        splits = [split for split in get_args(Split) if split in given]
        if len(splits) != len(given):
            raise InputError("--split", got=self.split, expected="some of train,val,test")
        return splits


def _epoch_line(epoch: "Epoch", epochs: int) -> str:
    full = "" if math.isnan(epoch.miou_full) else f" full {epoch.miou_full:.4f}"
    return (
        f"epoch {epoch.epoch}/{epochs}  loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}"
        f"  mIoU low {epoch.miou_low:.4f}{full}  lr {epoch.lr:.3g}"
        f"  {epoch.images_per_s:.1f} images/s"
    )


def _how_to_continue(cell: "Cell") -> str:
    from cityseg.cell import read_epochs

    done = len(read_epochs(cell.epochs))
    return f"the same command goes on after epoch {done} ({cell.folder})"


def _check_validated(cell: "Cell", val: list[Frame]) -> None:
    """A finished cell is not trained again, so nothing else has compared its frames with ours."""
    from cityseg.cell import read_confusion

    if read_confusion(cell.confusion).names != [frame.name for frame in val]:
        raise InputError(
            f"{cell.folder} holds a training on other frames", remedy="give another folder by --out"
        )


@dataclass(frozen=True)
class Prepare:
    """Decode all frames of a data set's train split once, for every training on this machine.

    A training does so by itself when it begins; this does it ahead.
    """

    data: Path | None = None
    """Root of the data set; by default $CITYSCAPES_DATASET, else the embedded city."""
    cache_dir: Path | None = None
    """Folder for it, on a local disk; by default $CITYSEG_CACHE, else the user's cache folder."""
    processes: int | None = None
    """That decode; by default one a core."""

    def run(self) -> int:
        """Build it, or say that it is there."""
        from cityseg import findings
        from cityseg.cache import ensure
        from cityseg.config import City
        from cityseg.minicity import ensure as ensure_city
        from cityseg.verify import check, check_names, refuse

        root = resolve_root(self.data) or ensure_city(City())
        frames = index(root, "train")
        started = time.perf_counter()
        cache = ensure(frames, self.cache_dir, self.processes)
        found = findings.examine(frames, self.processes)
        problems = [*check_names(root, "train"), *check(root, frames, found)]
        for problem in problems:
            if not problem.grave:
                print(printable(str(problem)), file=sys.stderr)
        refuse(root, problems)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in cache.folder.iterdir()) / 1e9
        decoded = counted(len(frames), "frame")
        print(f"{decoded} in {cache.folder}, {size:.2f} GB, after {seconds:.1f} s")
        others = [path for path in cache.folder.parent.glob("frames-*") if path != cache.folder]
        if others:
            caches = counted(len(others), "cache")
            print(f"beside it: {caches} of other or changed data sets; "
                  "what no training reads may be deleted")  # fmt: skip
        return 0


def _cache_words(cache_dir: Path | None) -> tuple[str, ...]:
    """The option as a setting."""
    if cache_dir is None:
        return ()
    return (f"resources.cache_dir={json_format.dumps(str(cache_dir))}",)


def _result_line(cell: "Cell", was_done: bool) -> str:
    from cityseg.cell import read_confusion
    from cityseg.metrics import mean_iou

    confusion = read_confusion(cell.confusion)
    scores = [
        f"{name} epoch {counts.epoch}: mIoU low {mean_iou(counts.low.sum(0)):.4f}"
        f" full {mean_iou(counts.full.sum(0)):.4f}"
        for name, counts in (("best", confusion.best), ("last", confusion.last))
    ]
    return f"{'was already done' if was_done else 'done'}; {'; '.join(scores)}; {cell.folder}"


@user_command
def main() -> int:
    """Run one command and return its exit code: 0 fine, 1 failed, 2 bad input, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command: Train | Evaluate | Predict | Submit | Export | Verify | Prepare = commandline.read(
        Train | Evaluate | Predict | Submit | Export | Verify | Prepare,
        prog="cityseg",
        description="Street-scene segmentation: train one cell, evaluate, predict, and so on.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return command.run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
