"""Real servers for tests: found or skipped, started on free ports of loopback, and stopped."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import psycopg
import pytest

from benchmarks import faults

REQUIRED: Final = "CITYSEG_REQUIRE_SERVERS"
"""Set to 1 in the environment, it makes a missing server a failure. CI sets it."""

PACKAGES: Final = {
    "chromium": "chromium",
    "initdb": "postgresql",
    "postgres": "postgresql",
    "prometheus": "prometheus",
}
"""Debian's package of each program."""

POSTGRES_BINARIES: Final = Path("/usr/lib/postgresql")
"""Debian keeps PostgreSQL's programs here, in `<version>/bin`, and off the PATH."""

POLL_S: Final = 0.1
LIMIT_S: Final = 120
"""Far beyond what anything takes: reached only where it would never happen."""


def require(program: str) -> Path:
    """Path of a program; where it is not installed, the test is skipped, or fails in CI."""
    versions = sorted(POSTGRES_BINARIES.glob(f"*/bin/{program}"))
    found = shutil.which(program) or (versions[-1] if versions else None)
    if not found:
        unavailable(f"{program} is not installed; Debian's package {PACKAGES[program]} brings it")
    return Path(found)


def unavailable(reason: str) -> NoReturn:
    """Skip the test for what this machine lacks; fail it in CI."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of any interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[str] | None = None,
    limit_s: float = LIMIT_S,
) -> None:
    """Poll until the condition holds; the process, if given, must live until then."""
    end = time.monotonic() + limit_s
    while not condition():
        assert process is None or process.poll() is None, f"{process.args} ended too early"
        assert time.monotonic() < end, f"waited {limit_s} s in vain"
        time.sleep(POLL_S)


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path],
    ready: Callable[[], bool],
    log: Path,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[str]]:
    """Run a server from when it is ready until the block's end.

    Args:
        command: what to run; it must stay in the foreground.
        ready: whether it can be used.
        log: file for what it prints, shown if it does not get ready; its folder is where it runs.
        stop: the signal that ends it.
    """
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True, cwd=log.parent)
    try:
        try:
            wait_until(ready, process)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{log.read_text()}") from None
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own, in memory, mounted at a new folder; only root may do so."""
    with contextlib.ExitStack() as mounted:
        try:
            mounted.enter_context(faults.small_disk(folder, megabytes))
        except PermissionError as error:
            unavailable(str(error))
        yield folder


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own, empty; yields its URL, password included.

    It refuses to run as root, who therefore runs it as the user that Debian's package makes.
    """
    initdb, server = require("initdb"), require("postgres")
    port, password = free_port(), secrets.token_hex()
    url = f"postgresql://cityseg:{password}@127.0.0.1:{port}/postgres"
    with tempfile.TemporaryDirectory(prefix="cityseg-postgres-") as name:
        folder, prefix = Path(name), []
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        options = ["--username=cityseg", "--pwfile=password", "--auth=scram-sha-256", "--no-sync"]
        make = [*prefix, initdb, "--pgdata=data", *options]
        subprocess.run(make, check=True, capture_output=True, cwd=folder)
        serve = [*prefix, server, "-D", "data", "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
        # SIGINT disconnects the clients; SIGTERM would wait for them
        with serving(serve, lambda: connects(url), folder / "log", signal.SIGINT):
            yield url


def connects(url: str) -> bool:
    """Whether a PostgreSQL answers there."""
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
