"""`cityseg evaluate`: a network, a row's networks and their ensemble, or anybody's predictions."""

import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from cityseg.data import Frame, index, require_root, resolve_root
from cityseg.errors import InputError, counted

if TYPE_CHECKING:
    from cityseg.ensemble import Ensemble
    from cityseg.evaluate import Evaluation
    from cityseg.samples import Loader, ValBatch
    from cityseg.scoring import Scores, Submission


@dataclass(frozen=True)
class Evaluate:
    """Score a network, a row's networks, or label-id PNGs of anybody, by the official rules."""

    settings: tyro.conf.Positional[tuple[str, ...]] = ()
    """KEY=VALUE settings of inference, evaluate or resources over those that the weights were
    trained with, such as inference.flip=true."""
    weights: Path | None = None
    """Weights of ours (best.safetensors), scored at the input size and at the frames' own."""
    ensemble: Path | None = None
    """A row of a study (results/NAME/v000): the network of each fold is scored, and all together
    by the mean of their softmax. Counts go to --out."""
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
    out: Path | None = None
    """Folder for the counts a frame, NETWORK.npz, and scores.json; by default none, of an ensemble
    its folder SPLIT."""
    json: bool = False
    """Print one JSON object instead of a table: miou, iou by class (null if absent), frames."""

    def run(self) -> int:
        """Count, then print."""
        given = [self.weights, self.ensemble, self.predictions]
        if sum(path is not None for path in given) != 1:
            raise InputError("evaluate", expected="one of --weights, --ensemble or --predictions")
        if self.predictions is not None:
            return self._score_predictions(self.predictions)
        if self.ensemble is not None:
            return self._score_ensemble(self.ensemble)
        assert self.weights is not None
        return self._score_network(self.weights)

    def _score_network(self, weights: Path) -> int:
        from cityseg.ensemble import load
        from cityseg.evaluate import count
        from cityseg.memory import explained_scoring
        from cityseg.scoring import score

        network = load({weights.stem: weights}, self.settings)
        frames, batches = self._batches(network)
        with explained_scoring(network.device):
            counts = count(network.score, batches, network.device)
        low, full = score(counts.low), score(counts.full)
        found = _as_object(len(frames), low, full)
        self._print(found, _score_table(len(frames), low, full))
        self._write({weights.stem: counts}, found, network)
        return 0

    def _score_ensemble(self, folder: Path) -> int:
        from cityseg.ensemble import find_members, load
        from cityseg.memory import explained_scoring
        from cityseg.scoring import score

        if self.split == "train" or self.folds_file is not None:
            raise InputError(
                "--ensemble", got="frames of the train split",
                expected="--split val: all networks but one were trained on each of the others",
            )  # fmt: skip
        ensemble = load(find_members(folder), self.settings)
        frames, batches = self._batches(ensemble)
        with explained_scoring(ensemble.device):
            counts = ensemble.evaluate(batches)
        scores = {name: (score(one.low), score(one.full)) for name, one in counts.items()}
        found: dict[str, object] = {
            "frames": len(frames),
            "networks": {name: _as_object(len(frames), *pair) for name, pair in scores.items()},
        }
        self._print(found, _ensemble_table(len(frames), scores))
        self._write(counts, found, ensemble)
        return 0

    def _score_predictions(self, folder: Path) -> int:
        from cityseg.scoring import read_submission, score

        root = require_root(self.data)
        if self.settings or self.out is not None:
            raise InputError("--predictions", expected="no settings and no --out beside it")
        frames = self._frames(root)
        submission = read_submission(folder, frames)
        _warn_of_train_ids(submission)
        full = score(submission.confusion)
        self._print(_as_object(len(frames), None, full), _score_table(len(frames), None, full))
        return 0

    def _batches(self, ensemble: "Ensemble") -> "tuple[list[Frame], Loader[ValBatch]]":
        from cityseg.minicity import ensure
        from cityseg.samples import val_loader
        from cityseg.train import loader_workers

        config, device = ensemble.config, ensemble.device
        frames = self._frames(resolve_root(self.data) or ensure(config.city))
        workers = loader_workers(config.resources, device)
        return frames, val_loader(frames, config, workers, pin=device.type == "cuda")

    def _frames(self, root: Path) -> list[Frame]:
        if (self.folds_file is None) != (self.fold is None):
            raise InputError("evaluate", expected="--folds-file and --fold together")
        if self.folds_file is None or self.fold is None:
            return index(root, self.split)
        from cityseg.folds import check_folds, read_folds

        frames, folds = index(root, "train"), read_folds(self.folds_file)
        check_folds(folds, frames, str(self.folds_file))
        return folds.split(frames, self.fold)[1]

    def _write(
        self, counts: "dict[str, Evaluation]", found: dict[str, object], ensemble: "Ensemble"
    ) -> None:
        from cityseg import atomic
        from cityseg.evaluate import write_counts

        out = self.out or (self.ensemble / self.split if self.ensemble else None)
        if out is None:
            return
        for name, one in counts.items():
            write_counts(out / f"{name}.npz", one)
        inference = ensemble.config.inference.model_dump(mode="json")
        text = json_format.dumps({**found, "inference": inference}, allow_nan=False, indent=1)
        atomic.write_text(out / "scores.json", text + "\n")
        print(f"counts in {out}", file=sys.stderr)

    def _print(self, found: dict[str, object], table: Table) -> None:
        if self.json:
            print(json_format.dumps(found, allow_nan=False))
        else:
            Console().print(table)


def _as_object(frames: int, low: "Scores | None", full: "Scores") -> dict[str, object]:
    """Full resolution under the plain names, low under names ending in `_low`."""
    extra = {} if low is None else {f"{k}_low": v for k, v in low.to_json().items()}
    return {**full.to_json(), "frames": frames, **extra}


def _score_table(frames: int, low: "Scores | None", full: "Scores") -> Table:
    columns = {"IoU": full} if low is None else {"IoU low-res": low, "IoU full-res": full}
    table = Table("class", title=counted(frames, "frame"))
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in full.iou:
        table.add_row(name, *(_percent(scores.iou[name]) for scores in columns.values()))
    table.add_section()
    table.add_row("mean (mIoU)", *(_percent(scores.miou) for scores in columns.values()))
    table.add_row("pixel accuracy", *(_percent(s.pixel_accuracy) for s in columns.values()))
    return table


def _ensemble_table(frames: int, scores: "dict[str, tuple[Scores, Scores]]") -> Table:
    """A row a network, their mean, and the ensemble; low and full resolution."""
    from cityseg.ensemble import TOGETHER

    table = Table("network", title=counted(frames, "frame"))
    for heading in ("mIoU low-res", "mIoU full-res", "accuracy low-res", "accuracy full-res"):
        table.add_column(heading, justify="right")
    rows = {
        name: [low.miou, full.miou, low.pixel_accuracy, full.pixel_accuracy]
        for name, (low, full) in scores.items()
    }
    together = rows.pop(TOGETHER)
    for name, row in rows.items():
        table.add_row(name, *map(_percent, row))
    table.add_section()
    table.add_row("their mean", *map(_percent, np.mean(list(rows.values()), axis=0)))
    table.add_row(TOGETHER, *map(_percent, together))
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
