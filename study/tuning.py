"""Ray Tune as the engine: one trial for each cell that is not done, on this machine's devices.

Ray's own state is disposable: every trial keeps its cell's state in the study's folder, and a
study is continued by a new Tuner over the cells that are not done.
"""

import contextlib
import errno
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RAY_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, the only way to silence Tune's own tables
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # epochs.csv is the record
    # Tune's trials never take one of the workers that Ray would start beforehand, one a core
    "RAY_prestart_worker_first_driver": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",  # Ctrl-C does not wait for an epoch's end
    # A Ray started here is of one machine: all its ports are on loopback then, where it would open
    # most of them to the network. Of no effect on a cluster that is joined. (docs/security.md)
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""Where the user has set nothing else; Ray reads it when it is imported."""
for _key, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)

WORKER_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}
"""Of the cells' processes, in which Tune has a second thread train: `cityseg.memory.keep_freed`."""

import filelock
import psutil
import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.error import TuneError
from rich.console import Console

from cityseg.errors import InputError, TransientError, terminations_as_ctrl_c
from study import sessions
from study.advisor import Advisor
from study.console import Watch
from study.home import Home, open_home
from study.keep import tidy
from study.progress import Board, RowProgress
from study.resources import Allotment, Machine
from study.schedule import Cell, Schedule
from study.search import FoldScheduler, FoldSearch, Report
from study.store import Study
from study.trial import SLOT, trainable, trial_name

# Tune would advise to continue by `Tuner.restore`, which knows nothing of the study's folder
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

MAX_FAILURES: Final = 2
"""Times that Ray restarts a cell which crashes in one epoch, each from its last finished one."""
CONNECT_TIMEOUT_S: Final = 5
FAREWELL_S: Final = 60
"""How long a driver in the cluster is given to stop: as long as Ray waits for a lost client."""
CLIENT_ATTEMPTS: Final = 3
"""To connect through Ray's client, whose own time limits a busy machine overruns."""
POLL_S: Final = 2
"""Between two looks at the raylets."""


@dataclass(frozen=True)
class Cluster:
    """A Ray that this process is connected to, and what a cell gets of it."""

    allotment: Allotment
    own: bool
    """Whether it runs for this study alone, with as many slots as cells may run at a time."""
    remote: bool
    """Whether it is spoken to through Ray's client (ray://): the driver then runs over there."""
    dashboard: str
    """Host and port; empty without one."""
    session: Path | None = None
    """Folder of a Ray of our own: its sockets, its logs, and Tune's files."""


def connect(
    address: str | None, dashboard: bool, settle: Callable[[list[Machine]], Allotment]
) -> contextlib.AbstractContextManager[Cluster]:
    """A Ray to run on: one of our own, or the running one at an address.

    Args:
        address: as of `ray.init`; None for one of our own on this machine.
        dashboard: of our own Ray.
        settle: what a cell gets, given the machines that there are.
    """
    return _running_ray(address, settle) if address else _own_ray(dashboard, settle)


@contextlib.contextmanager
def _own_ray(dashboard: bool, settle: Callable[[list[Machine]], Allotment]) -> Iterator[Cluster]:
    """Whatever else runs here is left alone; stopped in the end."""
    allotment = settle([Machine.here()])
    sessions.sweep()
    _make_token()
    with sessions.announced():
        context = _start_ray(dashboard, allotment)
        session = Path(context.address_info["session_dir"])
        try:
            with _room_told(), sessions.held(session), _interrupted_if_raylet_dies():
                yield Cluster(allotment, True, False, context.dashboard_url or "", session)
        finally:
            ray.shutdown()
            sessions.forget(session)


def _start_ray(dashboard: bool, allotment: Allotment) -> Any:
    """Start one here.

    Raises:
        InputError: this machine does not let it.
    """
    try:
        return ray.init(
            address="local",
            num_cpus=max(Machine.here().cores, allotment.slots * allotment.cpus),
            resources={SLOT: allotment.slots},
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )
    except Exception as error:  # Ray raises no other where a start takes it too long
        ray.shutdown()
        room = sessions.room()
        sessions.forget_own()
        raise InputError(
            "cannot start a Ray on this machine",
            got=f"{_said(error)} ({room})",
            remedy="where it timed out, try again when the machine is less busy; RAY_TMPDIR names "
            "another folder for it; python -m cityseg train needs no Ray",
        ) from None


@contextlib.contextmanager
def _room_told() -> Iterator[None]:
    """Ray and Tune do not name the file that they have no room for.

    Raises:
        InputError: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        raise InputError(
            "this machine's Ray cannot write its files",
            got=f"{error.strerror} ({sessions.room()})",
            remedy="make room, or have RAY_TMPDIR name another folder for it",
        ) from None


@contextlib.contextmanager
def _interrupted_if_raylet_dies() -> Iterator[None]:
    """Tune waits for ever on a Ray whose raylet was killed: then end as by Ctrl-C instead."""
    raylets = [child for child in psutil.Process().children() if child.name() == "raylet"]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            if any(raylet.status() == psutil.STATUS_ZOMBIE for raylet in raylets):
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _make_token() -> None:
    """Ray would write its token readable to all; who has it can run anything as this user."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):  # another's, or no home: Ray says what it lacks
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        path.chmod(0o600)


@contextlib.contextmanager
def _running_ray(address: str, settle: Callable[[list[Machine]], Allotment]) -> Iterator[Cluster]:
    """Left running in the end.

    Raises:
        InputError: there is none at the address, or it does not let us in.
    """
    _check_reachable(address)
    remote = address.startswith("ray://")
    try:
        context = _join(address, attempts=CLIENT_ATTEMPTS if remote else 1)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise _no_ray(address, _said(error)) from None
    try:
        yield Cluster(settle(_machines()), False, remote, context.dashboard_url or "")
    finally:
        ray.shutdown()


def _join(address: str, attempts: int) -> Any:
    """Connect; a client's Ray starts a process for it over there, and gives up on a slow one."""
    try:
        with _stderr_closed():
            return ray.init(
                address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": WORKER_ENVIRONMENT},
            )
    except ConnectionError:
        if attempts == 1:
            raise
        ray.shutdown()
        return _join(address, attempts - 1)


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes, and tell of it in many lines.

    Raises:
        InputError: no address, or nobody listens there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError("--address", got=address, expected="auto, HOST:PORT, or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_ray(address, str(error)) from None


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Ray's native code writes there, line after line, while it cannot get in."""
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _said(error: Exception) -> str:
    """The first of Ray's many lines; all of them where versions differ, which come after it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (
        " ".join(" ".join(lines).split()) if lines[0].startswith("Version mismatch") else lines[0]
    )


def _no_ray(address: str, said: str) -> InputError:
    return InputError(
        f"--address {address}",
        got=said,
        expected="a running Ray of our version that knows our token (RAY_AUTH_TOKEN, or "
        "~/.ray/auth_token)",
        remedy="start one with: RAY_AUTH_MODE=token ray start --head",
    )


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _machines() -> list[Machine]:
    return [
        Machine(int(has.get("CPU", 0)), int(has.get("memory", 0)), int(has.get("GPU", 0)))
        for has in (node["Resources"] for node in _nodes())
    ]


def where_to_watch(cluster: Cluster, metrics: bool, url: str | None = None) -> list[str]:
    """Lines that say where the study, at a URL or in a folder, can be seen elsewhere."""
    ray_command = Path(sys.executable).with_name("ray")
    lines = [
        f"dashboard: http://{cluster.dashboard} (its token: {ray_command} get-auth-token)",
        "  cells are its actors, such as v000_fold=1; their logs hold a line an epoch",
    ]
    lines = lines if cluster.dashboard else []
    if metrics:
        targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in _nodes()]
        lines.append(f"metrics: point Prometheus at {', '.join(targets)} (path /metrics)")
        lines.append(f"Grafana dashboard to import: {Path(__file__).with_name('grafana.json')}")
    look = f"python -m study.status {shlex.quote(url) if url else ''}".strip()
    return [*lines, f"watch it from another terminal: {look}"]


def run(home: Home, board: Board, cluster: Cluster, console: Console, storage: str | None) -> None:
    """Run a study's open cells, until none is left.

    Returns also after SIGINT, SIGTERM or SIGHUP, with cells unfinished.

    Args:
        home: of the study.
        board: the study as it stands.
        cluster: to run on.
        console: where to tell of it.
        storage: Optuna's, with its password; by default the one in the study's record.

    Raises:
        InputError: the storage cannot be used.
    """
    watch = Watch(board, console, cluster.allotment.slots)
    with terminations_as_ctrl_c(), watch:  # Ray has put handlers of its own
        if cluster.remote:
            _watch_from_afar(home, board, watch, cluster, storage)
        else:
            _drive(home, board, watch, cluster, storage)


class _Schedule(Schedule):
    """Asks the study's home for what cells have written, and tells it what is decided."""

    def __init__(
        self,
        home: Home,
        board: Board,
        advisor: Advisor | None,
        closed: Callable[[RowProgress], None],
    ):
        self._home = home
        super().__init__(board, advisor, closed)
        home.push()

    def next_cell(self, live: Collection[Cell]) -> Cell | None:
        cell = super().next_cell(live)
        self._home.push()  # a worker wants its row's file
        return cell

    def observe(self, variant: int, fold: int) -> bool:
        self._home.pull_cell(variant, fold)
        goes_on = super().observe(variant, fold)
        self._home.push()
        return goes_on

    def fail(self, variant: int, fold: int, reason: str) -> None:
        self._home.fail(variant, fold, reason)
        super().fail(variant, fold, reason)


def _drive(home: Home, board: Board, watch: Watch, cluster: Cluster, storage: str | None) -> None:
    storage = storage or board.record.storage
    advisor = Advisor(board.study, board.record, storage) if storage else None

    bare: set[int] = set()

    def closed(row: RowProgress) -> None:
        watch.ended(row.variant)
        keep(bare)

    def keep(bare: set[int]) -> None:
        tidy(board, bare)
        home.tidy(board)

    schedule = _Schedule(home, board, advisor, closed)
    with tempfile.TemporaryDirectory(prefix="cityseg-study-", dir=cluster.session) as scratch:
        tuner = _tuner(schedule, home.where, watch, cluster.allotment, cluster.own, scratch)
        with unwrapped_errors():
            tuner.fit()
    keep(set())  # of all rows: workers that were stopped have let go by now
    if cluster.session and any(row.status == "failed" for row in board):
        sessions.keep(cluster.session)


@contextlib.contextmanager
def unwrapped_errors() -> Iterator[None]:
    """Tune wraps what its callbacks raise: a storage that is gone is the user's again.

    Raises:
        InputError, TransientError: one that was raised within.
    """
    try:
        yield
    except TuneError as error:
        if isinstance(error.__context__, InputError | TransientError):
            raise error.__context__ from None
        raise


@ray.remote(num_cpus=0, max_retries=0, resources={"node:__internal_head__": 0.001})
def _drive_there(where: str, owner_id: str, cluster: Cluster, storage: str | None) -> None:
    """The driver as a task of the cluster's, for a user who is outside of it.

    On the head node, whose death ends the cluster anyway. It may outlive a user's process that was
    killed, so it has a lock of its own.
    """
    home = open_home(where, "remote-driver")
    driving = _alone(home.study, FAREWELL_S)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, driving, home.joining(owner_id):
        board = Board.read(home.study)
        watch = Watch(board, Console(file=nowhere), cluster.allotment.slots)
        _drive(home, board, watch, cluster, storage)


@contextlib.contextmanager
def _alone(study: Study, patience_s: float) -> Iterator[None]:
    """Be the study's one driver in the cluster.

    Raises:
        InputError: one whose user is gone has not ended in time.
    """
    lock = filelock.FileLock(study.folder / ".driver.lock")
    try:
        lock.acquire(timeout=patience_s)
    except filelock.Timeout:
        raise InputError(
            f"study {study.folder.name} is being run by another process",
            remedy="wait for it, or give another --name",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _watch_from_afar(
    home: Home, board: Board, watch: Watch, cluster: Cluster, storage: str | None
) -> None:
    """Follow the study's table while the cluster runs it.

    Raises:
        InputError, TransientError: one that ended the driver over there, or its loss.
    """
    try:
        _follow(
            _drive_there.remote(home.where, home.owner_id, cluster, storage), home, board, watch
        )
    except RayTaskError as error:
        if isinstance(error.cause, InputError | TransientError):
            raise error.cause from None
        raise
    except (RayError, ConnectionError) as error:
        raise TransientError(
            f"the study's driver on the cluster was lost: {_said(error)}; the same command goes on"
        ) from None


def _follow(task: ray.ObjectRef, home: Home, board: Board, watch: Watch) -> None:
    """Until the driver over there has ended; Ctrl-C ends it."""
    try:
        with _lasting_ctrl_c() as asked:
            ended = False
            while not ended:
                ended = bool(ray.wait([task], timeout=home.poll_s)[0])
                _show_changes(home, board, watch)
                if asked.is_set():
                    raise KeyboardInterrupt
        ray.get(task)
    except KeyboardInterrupt:
        ray.cancel(task)
        ray.wait([task], timeout=FAREWELL_S)
        home.pull()


def _show_changes(home: Home, board: Board, watch: Watch) -> None:
    home.pull()
    were_open = {row.variant for row in board if row.is_open}
    for variant, fold, epoch in board.refresh():
        watch.epoch(variant, fold, epoch)
    for row in board:
        if not row.is_open and row.variant in were_open:
            watch.ended(row.variant)


def _tuner(
    schedule: Schedule, where: str, watch: Watch, allotment: Allotment, own: bool, scratch: str
) -> tune.Tuner:
    board = schedule.board
    if own:  # with a search algorithm Tune starts its trials one after the other
        os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(allotment.slots))
    search = FoldSearch(schedule, allotment.slots if own else None)
    return tune.Tuner(
        trainable(allotment, slotted=own),
        param_space={"study": where, "cpus": allotment.cpus},
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=FoldScheduler(schedule, watch),
            num_samples=schedule.wanted * len(board.folds),
            trial_name_creator=lambda trial: trial_name(trial.config),
            trial_dirname_creator=lambda trial: trial_name(trial.config),
        ),
        run_config=tune.RunConfig(
            name=board.study.folder.name,
            storage_path=scratch,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Report(watch, search.start)],
            verbose=0,
        ),
    )


@contextlib.contextmanager
def _lasting_ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C is also kept in an event: raised while Ray's client tidies up, Python drops it."""
    asked = threading.Event()

    def interrupt(*_: object) -> None:
        asked.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
