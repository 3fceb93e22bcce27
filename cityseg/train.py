"""Training one cell: `fit` yields an epoch at a time, and a killed one goes on where it was.

After every epoch the whole state is on disk. Random draws come from (seed, epoch), so an epoch
begun again is the same epoch: interrupted equals uninterrupted, to the bit on a CPU.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import filelock
import numpy as np
import torch
from PIL import Image
from torch.optim import Optimizer

from cityseg import atomic, memory
from cityseg.cache import frame_reader
from cityseg.cell import Cell, Confusion, Counts, Epoch, write_confusion, write_epochs
from cityseg.census import census_of
from cityseg.checkpoint import load_network, load_state, save_state, save_weights, weights_epoch
from cityseg.config import Config, Resources, difference, load
from cityseg.data import Frame, read_image
from cityseg.errors import InputError, TrainingError
from cityseg.evaluate import Evaluation, Forward, evaluate, low_only, predict
from cityseg.labels import LABEL_ID_OF_TRAIN_ID
from cityseg.losses import criterion_of
from cityseg.metrics import mean_iou
from cityseg.model import UNet, initial_model
from cityseg.optimisation import (
    Average,
    Schedule,
    average_of,
    optimizer_of,
    rate_of,
    schedule_of,
)
from cityseg.precision import choose_kernels, place, precision_of
from cityseg.samples import (
    Choose,
    EpochBatches,
    Loader,
    TrainBatch,
    choice_of,
    train_loader,
    val_loader,
)
from cityseg.step import Step, training_step

LOCK_TIMEOUT_S: Final = 120
"""How long a cell that another process holds is waited for: a machine that lost its power holds a
lock on a network's disk for about 90 s."""

FINITE_CHECK_STEPS: Final = 50
"""Steps between looks at the losses: each look makes a GPU wait."""


WAITING_SHARE: Final = 0.2
"""Of an epoch's training time, spent waiting for samples: beyond it there is a warning."""

PARTS: Final = ("model", "optimizer", "schedule", "average")
"""Of a run, those that save and load themselves."""

OTHER: Final = {
    "identity": "settings",
    "frames": "frames",
    "precision": "precision: train.precision=auto is as the processor or GPU is",
}
"""What identifies a training, in words."""

NameOf = Callable[[int, int], str]
"""Name of the frame that the sample of (epoch, index) shows."""

log = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything that changes while a cell is trained; what a checkpoint holds."""

    model: UNet
    optimizer: Optimizer
    schedule: Schedule
    average: Average
    """Holds the network that is scored and kept: `model` itself, or an average of its past."""
    epochs: list[Epoch] = field(default_factory=list)
    best: Counts | None = None
    last: Counts | None = None

    @property
    def lr(self) -> float:
        """The learning rate of now."""
        return rate_of(self.optimizer)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data only."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {
            **parts,
            "epochs": epochs,
            "best": _to_state(self.best),
            "last": _to_state(self.last),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        own = [(group["lr"], group.get("capturable")) for group in self.optimizer.param_groups]
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        for group, (lr, capturable) in zip(self.optimizer.param_groups, own, strict=True):
            if capturable is not None:  # SGD is so anyway
                group["capturable"] = capturable
            if isinstance(lr, torch.Tensor):  # stays on its device
                group["lr"] = lr.fill_(float(group["lr"]))
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.best, self.last = _from_state(state["best"]), _from_state(state["last"])


def fit(
    config: Config, train: list[Frame], val: list[Frame], cell: Cell, device: torch.device
) -> Iterator[Epoch]:
    """Train a network and score it after every epoch; paper, section 2.

    Goes on from the cell's last finished epoch, yields each further one once it is on disk, and
    ends with the cell done: best weights, predictions, and counts of the best and last epoch.

    Raises:
        InputError: weights or frames that cannot be read; a state of another training.
        TrainingError: the loss is not finite.
        TransientError: the disk is full, or a process that loads data hangs or died.
    """
    choose_kernels(config, device)
    read = frame_reader([*train, *val], config)
    census = census_of(train, config, read)
    workers, pin = loader_workers(config.resources, device), device.type == "cuda"
    loader, batches = train_loader(train, config, workers, pin, read, census)
    validation = val_loader(val, config, workers, pin, read)
    run = start_run(config, device, len(batches))
    token = _resume(run, cell, config, train, val)
    criterion = criterion_of(config.loss, census).to(device)
    step = training_step(run.model, run.optimizer, criterion, config, device)
    name_of = _names(train, choice_of(config, census))
    scored_model = run.average.model
    forward = Forward(scored_model, config, device)
    for epoch in range(len(run.epochs) + 1, config.train.epochs + 1):
        torch.manual_seed(epoch_seed(config.seed, epoch))  # dropout
        batches.epoch = epoch
        run.schedule.before_step(batches.first_step)
        lr = run.lr
        started = time.perf_counter()
        train_loss = _train_epoch(run, step, loader, batches, name_of)
        trained = time.perf_counter()
        scored_on = validation if _is_full(epoch, config) else low_only(validation)
        scored = evaluate(scored_model, scored_on, config, device, forward)
        run.schedule.after_epoch(scored.loss)
        train_s, val_s = trained - started, time.perf_counter() - trained
        rate = len(batches) * config.train.step_size / train_s
        _record(run, scored, Epoch(
            epoch, train_loss, scored.loss, float(mean_iou(scored.low.sum(0))),
            float(mean_iou(scored.full.sum(0))), lr, train_s, val_s, rate,
        ))  # fmt: skip
        _commit(run, cell, config, token)
        yield run.epochs[-1]
    _complete_best(run, cell, lambda: evaluate(scored_model, validation, config, device, forward))
    _finish(run, cell, val, device)


def _names(frames: list[Frame], choose: Choose) -> NameOf:
    return lambda epoch, i: frames[choose(epoch, i).frame].name


def _train_epoch(
    run: Run,
    step: Step,
    loader: Loader[TrainBatch],
    batches: EpochBatches,
    name_of: NameOf,
) -> float:
    """One pass over the training frames; returns the mean of the steps' losses."""
    run.model.train()
    first = batches.first_step
    losses = torch.zeros(len(batches), device=run.device)  # stay there: no wait a step
    arrivals = _Arrivals(loader)
    for i, batch in enumerate(arrivals):
        run.schedule.before_step(first + i)
        losses[i] = step(batch)
        run.average.update()
        if (i + 1) % FINITE_CHECK_STEPS == 0 or i + 1 == len(batches):
            _stop_unless_finite(losses, run, batches, name_of)
    if batches.epoch == 1:
        arrivals.tell(loader.processes)
    arrivals.complain(batches.epoch)
    return float(losses.double().mean())


class _Arrivals:
    """Batches as they come from the loader, and how long they are waited for."""

    def __init__(self, loader: Iterable[TrainBatch]):
        self.loader = loader
        self.waited_s = 0.0
        self.samples = 0
        self.made_s = 0.0
        self.started = time.perf_counter()

    def __iter__(self) -> Iterator[TrainBatch]:
        batches = iter(self.loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - asked
            if batch is None:
                return
            self.samples += len(batch.image)
            self.made_s += batch.made_s
            yield batch

    def tell(self, processes: int) -> None:
        """Say what the loader can bring beside what the steps take."""
        stepped_s = time.perf_counter() - self.started - self.waited_s
        log.info(
            "loader: up to %.3g samples/s from %d process(es); steps: %.3g/s",
            processes * self.samples / self.made_s, processes, self.samples / stepped_s,
        )  # fmt: skip

    def complain(self, epoch: int) -> None:
        """Say so if the steps were kept waiting."""
        share = self.waited_s / (time.perf_counter() - self.started)
        if share > WAITING_SHARE:
            log.warning(
                "epoch %d: %.0f %% of the training time went by waiting for samples; "
                "resources.workers and the disk of resources.cache_dir decide that",
                epoch, 100 * share,
            )  # fmt: skip


def _stop_unless_finite(
    losses: torch.Tensor, run: Run, batches: EpochBatches, name_of: NameOf
) -> None:
    bad = torch.nonzero(~torch.isfinite(losses))
    if len(bad) == 0:
        return
    step = int(bad[0])
    names = ", ".join(name_of(batches.epoch, i) for i in batches.indices(batches.epoch, step))
    raise TrainingError(
        f"loss is {float(losses[step])} in epoch {batches.epoch}, step {step + 1} of "
        f"{len(batches)}, lr {run.lr:g}, on frames {names}; look at these frames, or lower train.lr"
    )


def train_cell(
    config: Config, train: list[Frame], val: list[Frame], cell: Cell, device: torch.device
) -> Generator[Epoch, None, None]:
    """`fit` in a cell's folder: checks what is there, and leaves the reason there if it fails.

    Raises:
        InputError: as `fit`, or another process trains this cell.
        TrainingError: as `fit`, or memory ran out; the reason is also in the cell's failure.txt.
        TransientError: as `fit`; the same training can be tried again.
    """
    with _only_trainer(cell):
        _claim(cell, config)
        if cell.status() == "done":
            shutil.rmtree(cell.state.parent, ignore_errors=True)
            return
        cell.failure.unlink(missing_ok=True)
        try:
            with memory.explained(config, device):
                yield from fit(config, train, val, cell, device)
        except (InputError, TrainingError) as error:
            atomic.write_text(cell.failure, f"{error}\n")
            raise


@contextlib.contextmanager
def _only_trainer(cell: Cell) -> Iterator[None]:
    """Hold the cell's lock. A killed study's worker may live a little longer than its driver."""
    lock = filelock.FileLock(cell.lock)
    try:
        with atomic.disk_faults(cell.lock):
            cell.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_TIMEOUT_S)
    except filelock.Timeout:
        raise InputError(
            f"{cell.folder} is being trained by another process", remedy="wait for it or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def start_run(config: Config, device: torch.device, epoch_steps: int = 1) -> Run:
    """A network, its optimiser and its schedule, before the first epoch.

    Args:
        config: of the training.
        device: where it is to be.
        epoch_steps: steps of one epoch; schedules by step want it.

    Raises:
        InputError: the encoder's weights are not to be had.
    """
    model = place(initial_model(config.model, config.seed), device)
    optimizer = optimizer_of(config.train, model, device)
    schedule = schedule_of(config.train, optimizer, epoch_steps)
    return Run(model, optimizer, schedule, average_of(config.train, model))


def use_device(resources: Resources) -> torch.device:
    """The GPU, if there is one, else the CPU; with no more of it than `resources` says.

    Settings of the whole process.
    """
    if resources.cpus_per_trial is not None:
        torch.set_num_threads(resources.cpus_per_trial)
    if not torch.cuda.is_available():
        memory.keep_freed()
        return torch.device("cpu")
    if resources.gpus_per_trial < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus_per_trial)
    return torch.device("cuda")


def loader_workers(resources: Resources, device: torch.device) -> int:
    """Processes that load data beside the training process."""
    if resources.workers is not None:
        return resources.workers
    cores = resources.cpus_per_trial or os.cpu_count() or 1
    return min(8, cores - 1) if device.type == "cuda" else 0


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of torch's own draws in an epoch: a 63-bit hash of both."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


def spread_ranks(count: int, wanted: int) -> list[int]:
    """Up to `wanted` distinct ranks, evenly from the first (0) to the last (count - 1)."""
    return sorted({round(rank) for rank in np.linspace(0, count - 1, min(wanted, count))})


def _claim(cell: Cell, config: Config) -> None:
    """Refuse a folder that holds epochs by another configuration, else write ours there."""
    if cell.config.is_file() and cell.has_epochs():
        changes = difference(load(cell.config).identity(), config.identity())
        if changes:
            raise InputError(
                f"{cell.folder} holds a training by another configuration ({'; '.join(changes)})",
                remedy="give another folder",
            )
    atomic.write_text(cell.config, config.to_yaml())


def _resume(
    run: Run, cell: Cell, config: Config, train: list[Frame], val: list[Frame]
) -> dict[str, str]:
    """Go back to the cell's last finished epoch, if any; returns what identifies this training."""
    names = [[frame.name for frame in part] for part in (train, val)]
    bfloat16 = precision_of(config, run.device).bfloat16  # by `auto`, not the same everywhere
    what = {"identity": config.identity(), "frames": names, "precision": bfloat16}
    token = {
        key: hashlib.sha256(json.dumps(value).encode()).hexdigest() for key, value in what.items()
    }
    if cell.state.is_file():
        state = load_state(cell.state, keys={"token", *run.state_dict()})
        for key, value in token.items():
            if state["token"].get(key, value) != value:  # older states say nothing of precision
                raise InputError(
                    f"{cell.state} is of another training (other {OTHER[key]})",
                    remedy="give another folder",
                )
        run.load_state_dict(state)
        _settle_best(run, cell)
    write_epochs(cell.epochs, run.epochs) if run.epochs else cell.epochs.unlink(missing_ok=True)
    return token


def _is_full(epoch: int, config: Config) -> bool:
    """Whether an epoch is scored at full resolution, too."""
    return epoch % config.evaluate.full_every == 0 or epoch == config.train.epochs


def _record(run: Run, scored: Evaluation, epoch: Epoch) -> None:
    if not math.isfinite(scored.loss):
        raise TrainingError(
            f"validation loss is {scored.loss} after epoch {epoch.epoch}, lr {epoch.lr:g};"
            " lower train.lr"
        )
    run.last = Counts(epoch.epoch, scored.low, scored.full)
    best = max((earlier.miou_low for earlier in run.epochs), default=-1.0)
    if run.best is None or epoch.miou_low > best:
        run.best = run.last
    run.epochs.append(epoch)


def _commit(run: Run, cell: Cell, config: Config, token: dict[str, str]) -> None:
    """Put a finished epoch on disk.

    The best weights wait under another name until the state that calls them best is there: a kill
    between the two writes then leaves neither a state without its weights nor the reverse.
    """
    assert run.best is not None
    epoch = run.epochs[-1].epoch
    if run.best.epoch == epoch:
        save_weights(_waiting(cell), run.average.model, config, epoch)
    save_state(cell.state, {**run.state_dict(), "token": token})
    _settle_best(run, cell)
    write_epochs(cell.epochs, run.epochs)


def _settle_best(run: Run, cell: Cell) -> None:
    waiting = _waiting(cell)
    if not waiting.is_file():
        return
    if run.best is not None and weights_epoch(waiting) == run.best.epoch:
        waiting.replace(cell.best_weights)
    else:
        waiting.unlink()


def _waiting(cell: Cell) -> Any:
    return cell.best_weights.with_name("best.next.safetensors")


def _complete_best(run: Run, cell: Cell, score: Callable[[], Evaluation]) -> None:
    """Score the best epoch at full resolution, from its weights, if it was not when it was run.

    Its row in the table is then complete; the scored network is left with these weights.
    """
    assert run.best is not None
    if len(run.best.full):
        return
    model, _ = load_network(cell.best_weights)
    run.average.model.load_state_dict(model.state_dict())
    full = score().full
    epoch = run.best.epoch
    run.best = Counts(epoch, run.best.low, full)
    row = run.epochs[epoch - 1]
    run.epochs[epoch - 1] = replace(row, miou_full=float(mean_iou(full.sum(0))))
    write_epochs(cell.epochs, run.epochs)


def _finish(run: Run, cell: Cell, val: list[Frame], device: torch.device) -> None:
    assert run.best is not None and run.last is not None
    _write_predictions(run.best, cell, val, device)
    write_confusion(cell.confusion, Confusion([frame.name for frame in val], run.best, run.last))
    shutil.rmtree(cell.state.parent, ignore_errors=True)


def _write_predictions(best: Counts, cell: Cell, val: list[Frame], device: torch.device) -> None:
    """Label-id PNGs of frames spread from the worst to the best."""
    model, config = load_network(cell.best_weights)
    place(model, device)
    scores = np.nan_to_num(mean_iou(best.full), nan=-1.0)
    order = np.argsort(scores, kind="stable")
    for rank in spread_ranks(len(val), config.evaluate.predictions):
        frame = val[int(order[rank])]
        prediction = predict(model, read_image(frame.image), config, device)
        with atomic.replacing(cell.predictions / f"{frame.name}_labelIds.png") as temporary:
            Image.fromarray(LABEL_ID_OF_TRAIN_ID[prediction]).save(temporary, format="PNG")


def _to_state(counts: Counts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    tensors = {name: torch.from_numpy(getattr(counts, name)) for name in ("low", "full")}
    return {"epoch": counts.epoch, **tensors}


def _from_state(state: dict[str, Any] | None) -> Counts | None:
    if state is None:
        return None
    return Counts(state["epoch"], state["low"].numpy(), state["full"].numpy())
