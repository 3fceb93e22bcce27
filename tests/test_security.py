"""What a study of this machine opens, writes and sends: nothing to anybody else."""

import ipaddress
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import filelock
import pytest

from cityseg.errors import InputError
from study import sessions
from study.resources import Allotment

SOURCES = Path(__file__).parents[1]

PROBE = """
import json, os, sys, time
os.umask(0)
import psutil
from study import tuning
from study.resources import Allotment
import ray
from ray.tune.execution import class_cache

allotment = Allotment(1, 1, 0, 10**9)
with tuning.connect(None, sys.argv[1] == "dashboard", lambda _: allotment) as cluster:
    time.sleep(1)  # it would start them about now
    me = psutil.Process()
    beforehand = [
        process.name()
        for process in me.children(recursive=True)
        if process.name() == "ray::IDLE"
        or any(word.endswith("default_worker.py") for word in process.cmdline()[:3])
    ]

    @ray.remote
    def inside(keys):
        import cityseg
        return {key: os.environ.get(key) for key in keys}

    environment = ray.get(inside.remote(sys.argv[2:]))
    as_tune_does = {"env_vars": class_cache.DEFAULT_ENV_VARS}
    of_cells = ray.get(inside.options(runtime_env=as_tune_does).remote(["MALLOC_ARENA_MAX"]))
    listening = [
        (process.name(), connection.laddr.ip, connection.laddr.port)
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    session = str(cluster.session)
print(json.dumps({"listening": listening, "environment": environment, "session": session,
                  "beforehand": beforehand, "of_cells": of_cells}))
"""
TELEMETRY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_AUTH_MODE": "token",
}


@pytest.mark.xdist_group("ray")  # one Ray at a time
def test_our_ray_listens_on_loopback_only_keeps_its_token_and_tells_nobody(tmp_path: Path):
    environment = {key: value for key, value in os.environ.items() if key not in TELEMETRY}
    words = [sys.executable, "-c", PROBE, "dashboard", *TELEMETRY]
    done = subprocess.run(
        words, env={**environment, "HOME": str(tmp_path), "PYTHONPATH": str(SOURCES),
             "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    names = {name for name, _, _ in told["listening"]}
    assert {"gcs_server", "raylet"} <= names and len(told["listening"]) > 8
    for name, address, port in told["listening"]:
        ip = ipaddress.ip_address(address.removeprefix("::ffff:"))
        assert ip.is_loopback, f"{name} listens on {address}:{port}"
    assert told["environment"] == TELEMETRY
    assert told["of_cells"] == {"MALLOC_ARENA_MAX": "1"}, "whatever Tune gives its trials besides"
    assert told["beforehand"] == [], "Tune's trials take no worker that Ray made beforehand"
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) == 64
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert not Path(told["session"]).exists(), "the session's folder is gone with it"


NAMES = ("dead", "kept", "alive", "ray")


def test_a_killed_drivers_session_is_removed_a_living_ones_and_a_strangers_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folders = {
        name: tmp_path / "ray" / f"session_{name}" for name in ("dead", "kept", "alive", "ray")
    }
    for name, folder in folders.items():
        (folder / "logs").mkdir(parents=True)
        if name != "ray":
            with sessions.held(folder):
                pass
    sessions.keep(folders["kept"])
    with sessions.held(folders["alive"]):
        sessions.sweep()
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(folders["alive"] / sessions.LOCK, timeout=0).acquire()
    assert {name for name, folder in folders.items() if folder.exists()} == {"kept", "alive", "ray"}


def test_a_session_whose_driver_was_killed_before_it_held_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray" / "session_old_77").mkdir(parents=True)  # of an earlier process' number
    os.utime(tmp_path / "ray" / "session_old_77", (1e9, 1e9))
    killed = """
import os
os.getpid = lambda: 77
from study import sessions
with sessions.announced():
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", killed], cwd=SOURCES, check=False)
    assert (tmp_path / f"{sessions.DRIVER}77").exists()
    with sessions.announced():
        for driver in (77, 78, os.getpid()):
            (tmp_path / "ray" / f"session_new_{driver}" / "logs").mkdir(parents=True)
        sessions.sweep()
        names = {path.name for path in (tmp_path / "ray").iterdir()}
    assert names == {"session_old_77", "session_new_78", f"session_new_{os.getpid()}"}
    assert not list(tmp_path.glob(f"{sessions.DRIVER}*"))


def test_a_ray_of_another_version_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch):
    from ray._private.utils import check_version_info

    from study import tuning

    def joins_another(*_: object, **__: object) -> None:
        check_version_info({"ray_version": "2.9.3", "python_version": "3.10.1"}, "here")

    monkeypatch.setattr(tuning, "_check_reachable", lambda _: None)
    monkeypatch.setattr(tuning.ray, "init", joins_another)
    allotment = Allotment(1, 1, 0, 1)
    with pytest.raises(InputError) as refused, tuning.connect("a:1", False, lambda _: allotment):
        pass
    assert "2.9.3" in str(refused.value) and tuning.ray.__version__ in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [OSError(28, "No space left on device"), Exception("The node timed out\nduring startup")],
)
def test_a_machine_that_lets_no_ray_start_is_one_line_with_the_room_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: Exception
):
    from study import tuning

    here, others = (tmp_path / "ray" / f"session_now_{pid}" for pid in (os.getpid(), 1))

    def starts_none(*_: object, **__: object) -> None:
        for session in (here, others):
            (session / "logs").mkdir(parents=True)
        raise said

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(tuning.ray, "init", starts_none)
    allotment = Allotment(1, 1, 0, 1)
    with pytest.raises(InputError) as refused, tuning.connect(None, False, lambda _: allotment):
        pass
    line = str(refused.value)
    assert line.startswith("cannot start a Ray on this machine: got ")
    assert str(said).splitlines()[0] in line and "\n" not in line
    assert "GB free" in line and "RAY_TMPDIR" in line
    assert others.exists() and not here.exists()


def test_a_ray_that_has_no_room_later_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from study import tuning

    class Started:
        address_info: ClassVar = {"session_dir": str(tmp_path)}
        dashboard_url = ""

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "_start_ray", lambda *_: Started)
    allotment = Allotment(1, 1, 0, 1)
    for error, told in {
        OSError(28, "No space left on device"): InputError,
        OSError(28, "No space left on device", "a file of ours"): OSError,
        OSError(2, "No such file or directory"): OSError,
    }.items():
        with pytest.raises(told) as raised, tuning.connect(None, False, lambda _: allotment):
            raise error
        assert (told is InputError) == ("RAY_TMPDIR" in str(raised.value))


UNSAFE = re.compile(
    r"(?<!plain)yaml\.(unsafe_|full_)?load\(|(?<![.\w])(eval|exec)\(|shell=True|os\.(system|popen)\(|"
    r"pickle\.loads?\(|cloudpickle|weights_only=False|allow_pickle=True|joblib\.load|dill\."
)


def test_nothing_that_runs_what_it_reads_is_called():
    files = [path for part in ("cityseg", "study") for path in (SOURCES / part).rglob("*.py")]
    assert len(files) > 60
    found = [
        f"{path}: {match}" for path in files for match in UNSAFE.findall(path.read_text("utf-8"))
    ]
    assert not found
    loads = [path for path in files if "torch.load(" in path.read_text("utf-8")]
    for path in loads:
        for call in re.findall(r"torch\.load\([^)]*\)", path.read_text("utf-8")):
            assert "weights_only=True" in call, f"{path}: {call}"
    assert loads
