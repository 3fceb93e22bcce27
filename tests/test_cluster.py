"""A study on an existing Ray of several nodes, of which one dies; and through Ray's client.

The cluster is real: a head without CPUs and two nodes of one each, as processes of this machine
that are told apart by their temporary folders, and found again by a mark in their environment.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from test_study import SETTINGS, assert_same_result, environment_of, here, wait_for

from cityseg.cell import Cell, read_epochs
from cityseg.data import index
from cityseg.train import train_cell
from study.store import Study

__all__ = ["here"]  # a fixture

pytestmark = pytest.mark.xdist_group("ray")  # one Ray at a time

DOCS = Path(__file__).parents[1] / "docs"
FOLDS = (1, 2, 3)
EPOCHS = 4
STARTS = 3
"""Tries of a node's start."""
MARK = f"cityseg-test-{uuid.uuid4()}"
"""In the environment of all that is started here."""

USERS = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
"""A user's environment: where study.tuning was imported by the tests before these, ours has its
settings, by which `ray start` makes no cluster of several nodes."""

ENVIRONMENT = {
    **USERS,
    "CITYSEG_TEST_MARK": MARK,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": uuid.uuid4().hex,
    "RAY_USAGE_STATS_ENABLED": "0",
}


def marked() -> list[psutil.Process]:
    """All that was started here, and lives."""
    processes = psutil.process_iter(["name", "cmdline"])
    return [process for process in processes if MARK in environment_of(process)]


def kill(processes: list[psutil.Process]) -> None:
    """And what they started: a process of Ray's that has given itself a name bears no mark."""
    family = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass(frozen=True)
class Node:
    """A Ray node that serves cells."""

    raylet: psutil.Process

    @staticmethod
    def of(temporary: Path) -> "Node":
        """The node whose temporary folder this is."""
        raylets = [process for process in marked() if process.info["name"] == "raylet"]
        here = [p for p in raylets if str(temporary) in " ".join(p.info["cmdline"])]
        assert len(here) == 1
        return Node(here[0])

    def processes(self) -> list[psutil.Process]:
        """Its raylet, and what the raylet started."""
        return [self.raylet, *self.raylet.children(recursive=True)]

    def cell(self, study: Study) -> Cell | None:
        """The cell that it trains: a worker holds its lock."""
        for process in self.processes():
            with suppress(psutil.Error):
                held = {file.path for file in process.open_files()}
                for fold in FOLDS:
                    if str(study.cell(0, fold).lock) in held:
                        return study.cell(0, fold)
        return None


@dataclass(frozen=True)
class Cluster:
    """Addresses of the head, for the inside and for the outside, and the other nodes."""

    address: str
    client: str
    nodes: tuple[Node, ...]


def start_ray(temporary: Path, *arguments: object) -> None:
    """Start a node, and wait until it serves: a busy machine overruns Ray's 30 s for a start."""
    words = [str(Path(sys.executable).with_name("ray")), "start", "--disable-usage-stats"]
    words += ["--temp-dir", str(temporary), "--object-store-memory", "80000000"]
    log = temporary / "start.log"
    for _ in range(STARTS):
        with log.open("wb") as out:
            start = subprocess.run(
                [*words, *map(str, arguments)], stdout=out, stderr=out, env=ENVIRONMENT, timeout=200
            )
        if start.returncode == 0:
            return
        kill([p for p in marked() if str(temporary) in " ".join(p.info["cmdline"])])
    pytest.fail(log.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and two nodes. Sockets lie in their folders: the names must be short."""
    root = Path(tempfile.mkdtemp(prefix="ray-"))
    folders = [root / name for name in ("head", "a", "b")]
    for folder in folders:
        folder.mkdir()
    port, client = free_port(), free_port()
    try:
        options = ("--port", port, "--ray-client-server-port", client, "--num-cpus", 0)
        start_ray(folders[0], "--head", "--include-dashboard", "false", *options)
        address = f"127.0.0.1:{port}"
        for folder in folders[1:]:  # one by one: started together, they may miss their time limits
            start_ray(folder, "--address", address, "--num-cpus", 1)
        nodes = tuple(Node.of(folder) for folder in folders[1:])
        yield Cluster(address, f"ray://127.0.0.1:{client}", nodes)
    finally:
        kill(marked())
        shutil.rmtree(root, ignore_errors=True)


def start_study(
    data: Path, results: Path, address: str, token: str = ENVIRONMENT["RAY_AUTH_TOKEN"]
) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "study.run", "--folds", "3", "--name", "tiny"]
    words += ["--data", str(data), "--results", str(results), "--address", address]
    return subprocess.Popen(
        [*words, *SETTINGS, f"train.epochs={EPOCHS}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, "RAY_AUTH_TOKEN": token},
    )


def plain_cell(study: Study, fold: int, folder: Path) -> Cell:
    """The same cell, trained in this process without Ray."""
    record = study.read()
    train, val = study.read_folds().split(index(record.data.root, "train"), fold)
    config = study.config(0, record)
    for _ in train_cell(config, train, val, Cell(folder), torch.device("cpu")):
        pass
    return Cell(folder)


def lines_of(out: str) -> list[str]:
    """The epochs told of, such as `fold 1  epoch 1/4`."""
    return sorted(line[6:23] for line in out.splitlines() if "  epoch " in line)


def assert_only_the_cluster_is_left() -> None:
    left = [process.info for process in marked()]
    names = [process["name"] for process in left]
    assert "gcs_server" in names and "raylet" in names
    assert not [name for name in names if name.startswith("ray::Fold")]
    assert not [process for process in left if "study.run" in process["cmdline"]]


@pytest.fixture(scope="module")
def survived(
    cluster: Cluster, tiny_city: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, Cell, int, str]:
    """A study of which a node was killed: the node's cell, its epochs then, and what was printed"""
    study = Study(tmp_path_factory.mktemp("results") / "tiny")
    process = start_study(tiny_city, study.folder.parent, cluster.address)
    victims: list[tuple[Node, Cell]] = []

    def at_work() -> bool:
        cells = [(node, node.cell(study)) for node in cluster.nodes]
        victims[:] = [(node, cell) for node, cell in cells if cell and cell.epochs.is_file()]
        return bool(victims)

    try:
        wait_for(at_work, process)
        node, cell = victims[0]
        kill(node.processes())
        epochs = len(read_epochs(cell.epochs))
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, out + err
    return study, cell, epochs, out


@pytest.mark.timeout(600)
def test_a_node_that_dies_costs_its_cell_the_epoch_in_flight(
    survived: tuple[Study, Cell, int, str], tmp_path: Path
):
    study, cell, epochs, out = survived
    assert 1 <= epochs < EPOCHS, "the node was killed in mid-cell"
    # the row of an epoch may be on disk, and its line lost with the node
    killed_in = f"{cell.folder.name[1:]}  epoch {epochs}/{EPOCHS}"
    told = {f"fold {fold}  epoch {n}/{EPOCHS}" for fold in FOLDS for n in range(1, EPOCHS + 1)}
    assert len(lines_of(out)) == len(set(lines_of(out))), "an epoch was run again"
    assert told - {f"fold {killed_in}"} <= set(lines_of(out)) <= told
    assert f"fold {cell.folder.name[1:]}  again: " in out
    for fold in FOLDS:
        assert_same_result(study.cell(0, fold), plain_cell(study, fold, tmp_path / str(fold)))
    assert_only_the_cluster_is_left()


@pytest.mark.timeout(600)
def test_from_outside_a_study_is_followed_interrupted_and_taken_up_again(
    cluster: Cluster, survived: tuple[Study, Cell, int, str], tiny_city: Path, tmp_path: Path
):
    study = Study(tmp_path / "tiny")
    process = start_study(tiny_city, tmp_path, cluster.client)
    refused = [
        start_study(tiny_city, tmp_path / "other", cluster.address, "another-token"),
        start_study(tiny_city, tmp_path / "third", f"127.0.0.1:{free_port()}"),
    ]
    try:
        wait_for(lambda: any(study.folder.glob("v000/f*/epochs.csv")), process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130, out + err
        assert "continue with the same command" in out and "Traceback" not in err
        told = [line.communicate(timeout=200)[1] for line in refused]
    finally:
        for started in (process, *refused):
            started.kill()
            started.communicate()
    for line, command in zip(told, refused, strict=True):
        assert command.returncode == 2 and line.count("\n") == 1, line
        assert line.startswith("error: --address 127.0.0.1:")
    assert "Connection refused" in told[1] and "knows our token" in told[0]

    before = sum(len(read_epochs(study.cell(0, fold).epochs)) for fold in FOLDS)
    assert 1 <= before < EPOCHS * len(FOLDS)
    process = start_study(tiny_city, tmp_path, cluster.client)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0 and not err, out + err
    assert len(lines_of(out)) == EPOCHS * len(FOLDS) - before
    assert "Mean" in out
    for fold in FOLDS:
        assert_same_result(study.cell(0, fold), survived[0].cell(0, fold))
    assert_only_the_cluster_is_left()


def test_the_example_of_a_cluster_is_one_that_ray_up_takes():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((DOCS / "cluster.yaml").read_text(encoding="utf-8")))
    validate_config(config)
    assert config["available_node_types"].keys() == {"local.cluster.node"}
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
