"""The command `python -m cityseg`: train one cell, evaluate, predict, verify, prepare.

What needs torch is imported by the commands that need it, so that the others start at once, and
so do the processes that read files.
"""

import json as json_format
import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import tyro
from rich.console import Console
from rich.table import Table

from cityseg.data import Frame, Split, index, resolve_root
from cityseg.errors import INTERRUPTED, InputError, user_command

if TYPE_CHECKING:
    from cityseg.cell import Cell, Epoch
    from cityseg.scoring import Scores, Submission


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
        from cityseg.cell import Cell
        from cityseg.folds import write_folds
        from cityseg.plan import plan_folds, resolve
        from cityseg.train import train_cell, use_device

        words = (*_cache_words(self.cache_dir), *self.settings)
        plan = resolve(self.config, self.data, self.folds, self.grouping, self.seed, words)
        print(plan.describe_data(), flush=True)
        folds = plan_folds(plan, self.folds_file)
        train, val = folds.split(plan.frames, self.fold)
        cell = Cell(self.out or Path("results") / f"cell-{plan.source.stem}-f{self.fold}")
        was_done = cell.status() == "done"
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
class Evaluate:
    """Score a network, or label-id PNGs of anybody, by the official evaluator's rules."""

    weights: Path | None = None
    """Weights of ours (best.safetensors), scored at the input size and at the frames' own."""
    predictions: Path | None = None
    """Folder with one label-id PNG a frame, {city}_{sequence}_{frame}*.png, at any depth."""
    data: Path | None = None
    """Root of the data set; by default $CITYSCAPES_DATASET, else the weights' embedded city."""
    split: Literal["train", "val"] = "val"
    """Which frames are scored."""
    folds_file: Path | None = None
    """Score only the frames of the train split that validate in --fold of this folds.json."""
    fold: int | None = None
    """From 1; goes with --folds-file."""
    json: bool = False
    """Print one JSON object instead of a table: miou, iou by class (null if absent), frames."""

    def run(self) -> int:
        """Count, then print."""
        if (self.weights is None) == (self.predictions is None):
            raise InputError("evaluate", expected="either --weights or --predictions")
        if self.weights is not None:
            frames, low, full = self._score_network(self.weights)
        else:
            assert self.predictions is not None
            frames, low, full = self._score_predictions(self.predictions)
        if self.json:
            print(json_format.dumps(_as_object(len(frames), low, full), allow_nan=False))
        else:
            Console().print(_score_table(len(frames), low, full))
        return 0

    def _score_network(self, weights: Path) -> "tuple[list[Frame], Scores | None, Scores]":
        from cityseg.checkpoint import load_network
        from cityseg.evaluate import evaluate
        from cityseg.minicity import ensure
        from cityseg.precision import place
        from cityseg.samples import val_loader
        from cityseg.scoring import score
        from cityseg.train import loader_workers, use_device

        model, config = load_network(weights)
        frames = self._frames(resolve_root(self.data) or ensure(config.city))
        device = use_device(config.resources)
        workers = loader_workers(config.resources, device)
        batches = val_loader(frames, config, workers, pin=device.type == "cuda")
        counted = evaluate(place(model, device), batches, config, device)
        return frames, score(counted.low), score(counted.full)

    def _score_predictions(self, folder: Path) -> "tuple[list[Frame], Scores | None, Scores]":
        from cityseg.scoring import read_submission, score

        root = resolve_root(self.data)
        if root is None:
            raise InputError("no data set", remedy="give its root by --data or CITYSCAPES_DATASET")
        frames = self._frames(root)
        submission = read_submission(folder, frames)
        _warn_of_train_ids(submission)
        return frames, None, score(submission.confusion)

    def _frames(self, root: Path) -> list[Frame]:
        if (self.folds_file is None) != (self.fold is None):
            raise InputError("evaluate", expected="--folds-file and --fold together")
        if self.folds_file is None or self.fold is None:
            return index(root, self.split)
        from cityseg.folds import check_folds, read_folds

        frames, folds = index(root, "train"), read_folds(self.folds_file)
        check_folds(folds, frames, str(self.folds_file))
        return folds.split(frames, self.fold)[1]


@dataclass(frozen=True)
class Predict:
    """Segment a picture, or all PNGs and JPEGs of a folder."""

    image: tyro.conf.Positional[Path]
    """The picture or folder."""
    weights: Path
    """Weights of ours (best.safetensors)."""
    out: Path
    """Folder to write into: labelIds/ (PNGs of label ids), color/ and overlay/."""

    def run(self) -> int:
        """Segment one picture after the other, and say where they are."""
        from cityseg.checkpoint import load_network
        from cityseg.precision import place
        from cityseg.predict import Outputs, find_pictures, segment
        from cityseg.train import use_device

        outputs = Outputs(self.out)
        pictures = find_pictures(self.image, outputs)
        model, config = load_network(self.weights)
        device = use_device(config.resources)
        place(model, device)
        for name, picture in pictures.items():
            segment(model, picture, name, outputs, config, device)
            print(outputs.label_ids / f"{name}_labelIds.png", flush=True)
        return 0


@dataclass(frozen=True)
class Verify:
    """Check a data set: names, pairs, sizes, modes and label ids of all its files."""

    data: Path | None = None
    """Root of the data set; by default $CITYSCAPES_DATASET."""
    split: str | None = None
    """Splits to check, such as train,val; by default train, and val if it is there."""

    def run(self) -> int:
        """Print counts a city and every problem; exit code 1 if there is one."""
        from cityseg.verify import verify

        root = resolve_root(self.data)
        if root is None:
            raise InputError("no data set", remedy="give its root by --data or CITYSCAPES_DATASET")
        reports = [verify(root, split) for split in self._splits(root)]
        table = Table("split", "city", "frames", title=str(root))
        for report in reports:
            for city, count in report.counts.items():
                table.add_row(report.split, city, str(count))
            table.add_row(report.split, "all", str(sum(report.counts.values())), end_section=True)
        Console().print(table)
        problems = [problem for report in reports for problem in report.problems]
        for problem in problems:
            print(f"{problem.path}: {problem.what}")
        print(f"{len(problems)} problems" if problems else "nothing wrong")
        return 1 if problems else 0

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
    return (
        f"epoch {epoch.epoch}/{epochs}  loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}"
        f"  mIoU low {epoch.miou_low:.4f} full {epoch.miou_full:.4f}  lr {epoch.lr:.3g}"
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
    """Decode all frames of a data set once, for every training on this machine to read.

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
        from cityseg.cache import ensure
        from cityseg.config import City
        from cityseg.minicity import ensure as ensure_city

        root = resolve_root(self.data) or ensure_city(City())
        frames = index(root, "train")
        started = time.perf_counter()
        cache = ensure(frames, self.cache_dir, self.processes)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in cache.folder.iterdir()) / 1e9
        print(f"{len(frames)} frames in {cache.folder}, {size:.2f} GB, after {seconds:.1f} s")
        others = [path for path in cache.folder.parent.glob("frames-*") if path != cache.folder]
        if others:
            print(f"{len(others)} caches of other or changed data sets lie beside it; "
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


def _as_object(frames: int, low: "Scores | None", full: "Scores") -> dict[str, object]:
    """Full resolution under the plain names, low under names ending in `_low`."""
    extra = {} if low is None else {f"{k}_low": v for k, v in low.to_json().items()}
    return {**full.to_json(), "frames": frames, **extra}


def _score_table(frames: int, low: "Scores | None", full: "Scores") -> Table:
    columns = {"IoU": full} if low is None else {"IoU low-res": low, "IoU full-res": full}
    table = Table("class", title=f"{frames} frames")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in full.iou:
        table.add_row(name, *(_percent(scores.iou[name]) for scores in columns.values()))
    table.add_section()
    table.add_row("mean (mIoU)", *(_percent(scores.miou) for scores in columns.values()))
    table.add_row("pixel accuracy", *(_percent(s.pixel_accuracy) for s in columns.values()))
    return table


def _percent(share: float) -> str:
    return "absent" if share != share else f"{share:.4f}"


def _warn_of_train_ids(submission: "Submission") -> None:
    if submission.looks_like_train_ids():
        print(
            f"warning: no predicted value is above {submission.highest_id}: label ids go to 33; "
            "were train ids (0-18) written instead?",
            file=sys.stderr,
        )


@user_command
def main() -> int:
    """Run one command and return its exit code: 0 fine, 1 failed, 2 bad input, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command = tyro.cli(
        Train | Evaluate | Predict | Verify | Prepare,
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
