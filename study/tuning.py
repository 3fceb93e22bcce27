"""Ray Tune as the engine: one trial for each cell that is not done, on this machine's devices.

Ray's own state is disposable: every trial keeps its cell's state in the study's folder, and a
study is continued by a new Tuner over the cells that are not done.
"""

import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from typing import Any, Final

RAY_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, the only way to silence Tune's own tables
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # epochs.csv is the record
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",  # Ctrl-C does not wait for an epoch's end
}
"""Where the user has set nothing else; Ray reads it when it is imported."""
for _key, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

import ray
from ray import tune
from ray.tune.experiment import Trial

from cityseg import atomic
from study.console import Watch
from study.resources import Allotment, Machine
from study.trial import SLOT, trainable, trial_name

# Tune would advise to continue by `Tuner.restore`, which knows nothing of the study's folder
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

MAX_FAILURES: Final = 2
"""Times that Ray restarts a cell which crashed, each from its last finished epoch."""


def train_cells(watch: Watch, todo: list[int], allotment: Allotment, dashboard: bool) -> None:
    """Start Ray on this machine, run one trial for each fold in `todo`, and stop Ray again.

    Returns also after SIGINT, SIGTERM or SIGHUP, with cells unfinished.
    """
    with _local_ray(allotment, dashboard) as url, _terminations_as_ctrl_c():
        if url:
            watch.note(f"dashboard: http://{url} (its token: ray get-auth-token)")
        with tempfile.TemporaryDirectory(prefix="cityseg-study-") as scratch, watch:
            _tuner(watch, todo, allotment, scratch).fit()


@contextlib.contextmanager
def _local_ray(allotment: Allotment, dashboard: bool) -> Iterator[str]:
    """A Ray of our own, whatever else runs here; yields the dashboard's address."""
    context = ray.init(
        address="local",
        num_cpus=max(Machine.here().cores, allotment.slots * allotment.cpus),
        resources={SLOT: allotment.slots},
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


def _tuner(watch: Watch, todo: list[int], allotment: Allotment, scratch: str) -> tune.Tuner:
    return tune.Tuner(
        trainable(allotment),
        param_space={
            "study": str(watch.study.folder),
            "variant": 0,
            "fold": tune.grid_search(todo),
            "cpus": allotment.cpus,
        },
        tune_config=tune.TuneConfig(
            trial_name_creator=lambda trial: trial_name(trial.config),
            trial_dirname_creator=lambda trial: trial_name(trial.config),
        ),
        run_config=tune.RunConfig(
            name=watch.study.folder.name,
            storage_path=scratch,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Report(watch)],
            verbose=0,
        ),
    )


class Report(tune.Callback):
    """Passes Tune's events on to the user, and keeps the reason of a cell that kept crashing."""

    def __init__(self, watch: Watch):
        self.watch = watch

    def __getstate__(self) -> dict[str, object]:
        """Tune pickles a copy that is never used: it holds nothing."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A cell is at work, for the first time or again."""
        self.watch.running.add(trial.config["fold"])

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A cell has ended."""
        self.watch.running.discard(trial.config["fold"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch was finished, or a cell failed for good."""
        if "failed" in result:
            self.watch.note(f"fold {trial.config['fold']}  failed: {result['failed']}")
        elif "epoch" in result:
            self.watch.epoch(trial.config["fold"], result["epoch"])

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A cell crashed more often than it is retried."""
        self.watch.running.discard(trial.config["fold"])
        lines = str(trial.get_error()).strip().splitlines() or ["unknown"]
        reason = f"crashed {MAX_FAILURES + 1} times, the last: {lines[-1]}"
        cell = self.watch.study.cell(trial.config["variant"], trial.config["fold"])
        atomic.write_text(cell.failure, reason + "\n")
        self.watch.note(f"fold {trial.config['fold']}  failed: {reason}")


@contextlib.contextmanager
def _terminations_as_ctrl_c() -> Iterator[None]:
    """Ray stops in good order at SIGINT, but is aborted by these."""

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
