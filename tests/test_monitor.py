"""What shows a cell's epochs while it trains: event files read back, metrics scraped for real."""

import itertools
import json
import math
import os
import re
import struct
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import ray
from servers import free_port, require, serving, wait_until
from tensorboardX.proto import event_pb2

from cityseg.cell import Cell, Epoch, write_epochs
from study.monitor import LABELS, QUANTITIES, REFRESH_S, Monitor

pytestmark = pytest.mark.xdist_group("ray")  # one Ray at a time

DASHBOARD: Final = Path(__file__).parents[1] / "study" / "grafana.json"
TAGS: Final = {"mIoU/low", "mIoU/full", "loss/train", "loss/val", "lr", "images_per_s"}


def an_epoch(epoch: int) -> Epoch:
    """Every number another, and all of them short in binary: they survive float32 unchanged."""
    miou = epoch / 64
    return Epoch(epoch, 3 + miou, 2 + miou, miou, miou / 2, 2.0**-epoch, 60.0, 30.0, 7 + miou)


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every scalar in all event files of a cell, by tag."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        for event in events(file.read_bytes()):
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars


def events(data: bytes) -> Iterator[event_pb2.Event]:  # pyright: ignore[reportAttributeAccessIssue] # generated code
    """Records of a TFRecord file: length (8 bytes), its checksum (4), data, its checksum (4)."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield event_pb2.Event.FromString(data[12 : 12 + length])  # pyright: ignore[reportAttributeAccessIssue] # generated code
        data = data[16 + length :]


def assert_shows_once(folder: Path, epochs: int) -> None:
    scalars = shown(folder)
    expected = [an_epoch(epoch) for epoch in range(1, epochs + 1)]
    assert scalars.keys() == TAGS
    for quantity in QUANTITIES:
        if quantity.tag:
            values = [(epoch.epoch, getattr(epoch, quantity.field)) for epoch in expected]
            assert scalars[quantity.tag] == values


def test_every_epoch_is_in_the_event_file_at_once(tmp_path: Path):
    with Monitor("paper", 3, 1, tmp_path, []) as monitor:
        for epoch in (1, 2):
            monitor.epoch(an_epoch(epoch))
            assert_shows_once(tmp_path, epoch)


def test_an_epoch_that_is_not_scored_at_full_size_leaves_no_point_there(tmp_path: Path):
    unscored = replace(an_epoch(2), miou_full=math.nan)
    with Monitor("paper", 3, 1, tmp_path, []) as monitor:
        for epoch in (an_epoch(1), unscored, an_epoch(3)):
            monitor.epoch(epoch)
    scalars = shown(tmp_path)
    assert [step for step, _ in scalars["mIoU/full"]] == [1, 3]
    assert [step for step, _ in scalars["mIoU/low"]] == [1, 2, 3]


KILLED: Final = """
import os, signal
from pathlib import Path
from test_monitor import Monitor, an_epoch
monitor = Monitor("paper", 3, 1, Path(os.environ["FOLDER"]), []).__enter__()
for epoch in (1, 2, 3):
    monitor.epoch(an_epoch(epoch))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_cell_shows_every_epoch_once_when_it_goes_on(tmp_path: Path):
    """The third epoch was shown but is not in the table, and the file is torn: it is run again."""
    environment = {**os.environ, "FOLDER": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert ended.returncode == -9
    assert_shows_once(tmp_path, 3)
    (file,) = (tmp_path / "tensorboard").iterdir()
    old = file.rename(file.with_name("events.out.tfevents.1700000000.here"))
    old.write_bytes(old.read_bytes()[:-5])
    other = tmp_path / "tensorboard" / "notes.txt"
    other.touch()
    with Monitor("paper", 3, 1, tmp_path, [an_epoch(1), an_epoch(2)]) as monitor:
        assert other.exists()  # only event files are ours to remove
        other.unlink()
        assert_shows_once(tmp_path, 2)
        monitor.epoch(an_epoch(3))
    assert_shows_once(tmp_path, 3)


def test_epochs_of_a_worker_that_outlived_its_driver_are_shown(tmp_path: Path):
    with Monitor("paper", 3, 1, tmp_path, [an_epoch(1)]) as monitor:
        write_epochs(Cell(tmp_path).epochs, [an_epoch(epoch) for epoch in (1, 2, 3, 4)])
        monitor.epoch(an_epoch(4))
    assert_shows_once(tmp_path, 4)


def test_the_time_axis_leaves_out_the_pause(tmp_path: Path):
    with Monitor("paper", 3, 1, tmp_path, [an_epoch(1), an_epoch(2)]) as monitor:
        monitor.epoch(an_epoch(3))
    (file,) = (tmp_path / "tensorboard").iterdir()
    times = [event.wall_time for event in events(file.read_bytes()) if event.step]
    assert [later - time for time, later in itertools.pairwise(times)] == pytest.approx([90, 90])


def test_gauges_are_set_again_before_ray_forgets_them():
    assert ray._config.metrics_report_interval_ms() > 2 * REFRESH_S * 1000  # pyright: ignore[reportAttributeAccessIssue] # its stub lacks it


CELL_AT_WORK: Final = """
import os, sys
from pathlib import Path
import study.tuning  # Ray as a study has it
import ray

ray.init(address="local", num_cpus=1, include_dashboard=True, log_to_driver=False)

@ray.remote
class Worker:
    def train(self):
        import study.monitor
        from test_monitor import an_epoch
        study.monitor.REFRESH_S = 0.5
        self.monitor = study.monitor.Monitor("paper", 3, 2, Path(os.environ["FOLDER"]), [])
        self.monitor.__enter__().epoch(an_epoch(8))

worker = Worker.remote()
ray.get(worker.train.remote())
print("metrics port", ray.nodes()[0]["MetricsExportPort"], flush=True)
sys.stdin.read()
ray.shutdown()
"""
"""Shows one epoch, then works on the next until its standard input is closed."""

Query = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def metrics_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a local Ray with a cell at work exports its metrics; every second, for the test."""
    environment = {
        **os.environ,
        "FOLDER": str(tmp_path_factory.mktemp("cell")),
        "PYTHONPATH": str(Path(__file__).parent),
        "RAY_metrics_report_interval_ms": "1000",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", CELL_AT_WORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    try:
        told = next(line for line in process.stdout if "metrics port" in line)
        yield int(told.split()[-1])
    finally:
        process.communicate()


@pytest.fixture(scope="module")
def query(metrics_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Ask a real Prometheus that scrapes it."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    jobs = [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}]
    settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML

    def ask(expression: str) -> list[dict[str, Any]]:
        words = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{words}") as response:
            return json.load(response)["data"]["result"]

    def ready() -> bool:
        try:
            return bool(ask('up{job="ray"} == 1'))
        except OSError:
            return False

    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    address = f"--web.listen-address=127.0.0.1:{port}"
    command = [require("prometheus"), *options, address]
    with serving(command, ready, folder / "log"):
        yield ask


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.metric)
def test_prometheus_sees_the_epoch(query: Query, quantity: Any):
    """And still does when Ray has exported many times since the epoch was shown."""
    cell = '{study="paper", variant="v003", fold="2"}'
    expected = getattr(an_epoch(8), quantity.field)
    wait_until(lambda: bool(query(f"count_over_time(ray_{quantity.metric}{cell}[1h]) > 9")))
    values = [float(result["value"][1]) for result in query(f"ray_{quantity.metric}{cell}")]
    assert values == [expected]


def dashboard_queries() -> dict[str, str]:
    """PromQL of every panel of the Grafana dashboard, by the panel's title and the query's id."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    }


@pytest.mark.parametrize("name", dashboard_queries())
def test_prometheus_answers_every_panel(query: Query, name: str):
    expression = dashboard_queries()[name]
    for variable, value in (("study", "paper"), ("variant", ".+"), ("fold", "1|2")):
        expression = expression.replace(f"${variable}", value)
    wait_until(lambda: bool(query(expression)))
    (result,) = query(expression)
    assert result["metric"] == {"study": "paper", "variant": "v003", "fold": "2"}


def test_the_dashboard_names_what_the_monitor_exports():
    text = DASHBOARD.read_text()
    assert set(re.findall(r"ray_\w+", text)) == {
        f"ray_{quantity.metric}" for quantity in QUANTITIES
    }
    selectors = re.findall(r'(\w+)=~\\"\$(\w+)\\"', text)
    groups = [tuple(names.split(", ")) for names in re.findall(r"by \((.*?)\)", text)]
    assert {label for pair in selectors for label in pair} == set(LABELS)
    assert set(groups) == {LABELS}
    assert set(re.findall(r"\{\{(\w+)\}\}", text)) == set(LABELS)
    values = dict(re.findall(r'"definition": "label_values\((ray_\w+)(?:\{.*?\})?, (\w+)\)"', text))
    assert list(values) == ["ray_cityseg_epoch"]


def test_the_dashboard_asks_for_its_data_source_study_variant_and_fold():
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", *LABELS]
    for label in LABELS:
        assert variables[label]["definition"].endswith(f", {label})")
    sources = [part["datasource"]["uid"] for part in (*dashboard["panels"], variables["fold"])]
    assert set(sources) == {"${datasource}"}
