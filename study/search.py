"""The study's schedule as Ray Tune's search algorithm and scheduler: one trial a cell.

Trials are told apart by the variant and fold in their configuration, never by Ray's ids, and are
asked for only when there is room for them: every proposal can then rest on all finished rows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cityseg import memory
from cityseg.cell import Epoch
from study.console import Watch
from study.schedule import Cell, Schedule
from study.store import variant_name

KILLED_FOR_MEMORY: Final = ("OOM killer", "low on memory", "OutOfMemory")
"""In what Ray says of a process that was killed, by the system or by itself."""


class FoldSearch(Searcher):
    """Gives Tune the schedule's cells."""

    def __init__(self, schedule: Schedule, slots: int | None):
        """Serve a schedule.

        Args:
            schedule: what to run.
            slots: cells at a time; None to let the cluster's resources decide, one cell ahead.
        """
        super().__init__()  # no metric: Tune would refuse a result without it, as of a failed cell
        self.schedule = schedule
        self._slots = slots
        self._live: dict[str, Cell] = {}
        self._started: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles a copy that is never used: it holds nothing."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next cell; None while there is no room or none is known yet."""
        if self._is_full():
            return None
        cell = self.schedule.next_cell(set(self._live.values()))
        if cell is None:
            return None if self._live else Searcher.FINISHED
        self._live[trial_id] = cell
        return {"variant": cell[0], "fold": cell[1]}

    def _is_full(self) -> bool:
        if self._slots is not None:
            return len(self._live) >= self._slots
        return len(self._live.keys() - self._started) > 0

    def start(self, trial_id: str) -> None:
        """A trial got its resources."""
        self._started.add(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended, whichever way."""
        if trial_id in self._live:
            self.schedule.observe(*self._live.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: the table on disk is the truth."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""


class FoldScheduler(FIFOScheduler):
    """First in, first out; stops all trials of a row that is closed."""

    def __init__(self, schedule: Schedule, watch: Watch):
        super().__init__()
        self.schedule = schedule
        self.watch = watch

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles a copy that is never used: it holds nothing."""
        return {}

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """An epoch was finished, or a cell failed for good."""
        variant, fold = cell_of(trial)
        goes_on = self.schedule.observe(variant, fold)
        if "epoch" in result and not result.get("done"):
            trial.run_metadata.num_failures = 0  # only crashes within one epoch add up
            if result["epoch"] <= len(self._known_epochs(trial)):  # not once the row is closed
                self.watch.epoch(variant, fold, result["epoch"])
        self._stop_closed(tune_controller, but=trial)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def _known_epochs(self, trial: Trial) -> list[Epoch]:
        variant, fold = cell_of(trial)
        return self.schedule.board.rows[variant].cell(fold).epochs

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A cell crashed: it is retried, unless it did so too often."""
        if trial.should_recover():
            return
        crashes = trial.run_metadata.num_failures
        last = last_error(trial)
        reason = f"crashed {crashes} times in one epoch, the last: {last}"
        variant, fold = cell_of(trial)
        if any(sign in last for sign in KILLED_FOR_MEMORY):
            reason += f"; {self._would_fit(variant)}"
        self.schedule.fail(variant, fold, reason)

    def _would_fit(self, variant: int) -> str:
        board = self.schedule.board
        config = board.study.config(variant, board.record)
        there = memory.host_bytes()
        return f"of {there / 1e9:.1f} GB free, would fit: {memory.would_fit(config, there)}"

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The oldest trial of an open row."""
        self._stop_closed(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def _stop_closed(self, tune_controller: TuneController, but: Trial | None = None) -> None:
        for trial in list(tune_controller.get_live_trials()):
            if trial is not but and not self.schedule.is_open(trial.config["variant"]):
                tune_controller.stop_trial(trial)


class Report(TrialProgressCallback):
    """Tells which cells are at work, in the place of Tune's own callback, which prints."""

    def __init__(self, watch: Watch, started: Callable[[str], None]):
        super().__init__()
        self.watch = watch
        self._started = started

    def __getstate__(self) -> dict[str, object]:
        """Tune pickles a copy that is never used: it holds nothing."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A cell is at work, for the first time or again."""
        self._started(trial.trial_id)
        self.watch.running.add(cell_of(trial))

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        """The scheduler tells of epochs."""

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A cell has crashed, or its machine has died, and is to go on from its last epoch."""
        cell = cell_of(trial)
        self.watch.running.discard(cell)
        self.watch.note(f"{variant_name(cell[0])}  fold {cell[1]}  again: {last_error(trial)}")

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A cell has ended."""
        self.watch.running.discard(cell_of(trial))

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A cell has ended by crashing."""
        self.watch.running.discard(cell_of(trial))


def cell_of(trial: Trial) -> Cell:
    """Variant and fold of a trial."""
    return trial.config["variant"], trial.config["fold"]


def last_error(trial: Trial) -> str:
    """The last line of what Ray says of a trial's last crash."""
    # `trial.get_error()` reads what is copied to Tune's storage later
    written = Path(trial.error_file) if trial.error_file else None
    if written is None or not written.is_file():
        return "unknown"
    return (written.read_text(encoding="utf-8").strip().splitlines() or ["unknown"])[-1]
