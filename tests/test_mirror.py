"""A study at a URL: nothing a kill, a pause or a second process does tears it apart.

The store is a folder (file://) or memory (memory://), both through fsspec as any other.
"""

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest
import torch
from fake_study import make_study_of_rows
from ray.exceptions import WorkerCrashedError
from rich.console import Console
from test_keep import make as make_study_with_weights
from test_keep import with_weights
from test_study import assert_same_result, study_command
from tiny import thin_resnet, tiny_config

import study.run
from cityseg.cell import Cell, read_epochs
from cityseg.data import Frame
from cityseg.errors import DiskError, InputError, TransientError
from cityseg.plan import Plan
from cityseg.train import train_cell
from study import fetch, home, objects, owner, report, status, trial
from study.analysis import variant_table
from study.begin import begin
from study.home import CELL_FILES, RemoteHome, open_home
from study.keep import tidy
from study.lookup import find
from study.mirror import Mirror, TakenOverError
from study.objects import Objects, StoreError, url_of
from study.progress import Board
from study.resources import Allotment
from study.space import Search
from study.store import Study

PATTERNS = ("state", "best", "sub/*.txt", "confusion.npz")


class KilledError(BaseException):
    """Stands for kill -9: nothing that runs after it may matter."""


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place in each store."""
    return f"file://{tmp_path}/url/s" if request.param == "file" else f"memory://{uuid.uuid4()}/s"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSES_S", (0, 0, 0))
    monkeypatch.setattr(owner, "SETTLE_S", 0)
    monkeypatch.setattr(owner, "WATCH_S", 0.01)
    monkeypatch.setattr("cityseg.atomic.sync", lambda _: None)


# --- the objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        (Path("s3://bucket/a/b"), "s3://bucket/a/b"),  # it has lost a slash
        (Path("file:///tmp/a"), "file:///tmp/a"),
        ("gs://bucket/", "gs://bucket"),
        ("results", None),
        (Path("/shared/results"), None),
        (Path("C:/results"), None),
    ],
)
def test_a_url_is_told_from_a_path(place: Path | str, expected: str | None):
    assert url_of(place) == expected


def test_objects_are_written_read_listed_and_removed(url: str, tmp_path: Path):
    store = Objects(url)
    assert store.names() == [] == store.names("a")
    (tmp_path / "file").write_bytes(b"123")
    store.store(tmp_path / "file", "a/b/file")
    store.create("a/one", b"1")
    store.replace("a/one", b"2")
    store.replace("ab/two", b"3")
    assert sorted(store.names("a")) == ["a/b/file", "a/one"]
    assert len(Objects(url).names()) == 3
    store.fetch("a/b/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"123" and store.get("a/one") == b"2"
    for _ in range(2):
        store.delete("a/one")
    with pytest.raises(FileNotFoundError):
        store.get("a/one")
    with pytest.raises(FileNotFoundError):
        store.fetch("a/one", tmp_path / "copy")


def test_of_two_who_create_one_object_the_second_is_told(url: str):
    Objects(url).create("a", b"mine")
    with pytest.raises(FileExistsError):
        Objects(url).create("a", b"yours")
    Objects(url).create("a", b"mine")  # the answer to the first attempt was lost
    assert Objects(url).get("a") == b"mine" and Objects(url).names() == ["a"]


def test_an_upload_that_was_cut_short_is_noticed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Objects(url)
    (tmp_path / "file").write_bytes(b"123")
    monkeypatch.setattr(store._fs, "put_file", lambda _, there: store._fs.pipe_file(there, b"12"))
    with pytest.raises(StoreError, match=r"got 2 bytes, expected the 3 bytes of"):
        store.store(tmp_path / "file", "a")


def test_a_store_that_answered_once_is_asked_again(url: str, monkeypatch: pytest.MonkeyPatch):
    store = Objects(url)
    asked: list[str] = []

    def refuse(name: str) -> bytes:
        asked.append(name)
        raise OSError("no route")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="got no route"):
        patch.setattr(store._fs, "cat_file", refuse)
        store.get("a")
    assert len(asked) == 1, "a user is not kept waiting"
    store.create("a", b"1")
    answers: list[Any] = [OSError("reset"), TimeoutError(), OSError("slow down"), b"1"]

    def cat_file(_: str) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(store._fs, "cat_file", cat_file)
    assert store.get("a") == b"1"
    answers[:] = [OSError("first\nsecond")] * 9
    with pytest.raises(StoreError, match=rf"^cannot use {url}: got first$"):
        store.get("a")
    assert len(answers) == 5
    monkeypatch.setattr(store._fs, "cat_file", lambda _: {}["a mistake of ours"])
    with pytest.raises(KeyError):
        store.get("a")


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ("gs://bucket/studies", "cannot use gs://bucket/studies/paper: got Please install gcsfs"),
        ("foo://bucket", "Protocol not known: foo"),
        ("simplecache::s3://bucket", "expected one protocol, such as s3://bucket/folder"),
        ("file:///proc/studies", "cannot use file:///proc/studies/paper: got [Errno 2]"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(
    results: str, said: str, tiny_city: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    words = ["study.run", "--data", str(tiny_city), "--results", results, "--folds", "3"]
    monkeypatch.setattr(sys, "argv", [*words, "model.weights=none"])
    assert study.run.main() == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


# --- one folder and its mirror -------------------------------------------------------------------


class Watched(Objects):
    """Calls `step` before and after everything that it does."""

    def __init__(self, url: str, step: Callable[[], None]):
        super().__init__(url)
        self.step = step

    def _attempt(self, work: Callable[[], Any]) -> Any:
        if not hasattr(self, "_fs"):  # only now is it opened
            return super()._attempt(work)
        self.step()
        result = super()._attempt(work)
        self.step()
        return result


def mirror(url: str, folder: Path, step: Callable[[], None] = lambda: None) -> Mirror:
    return Mirror(Watched(url, step), "v000/f1", folder, PATTERNS)


def content(version: int, last: int) -> dict[str, bytes]:
    """Files of a folder at a version; the best one changes at every other only."""
    best = f"best {version // 2}".encode()
    if version == last:
        return {"best": best, "sub/a.txt": b"a", "confusion.npz": b"counts"}
    return {"best": best, "state": f"state {version}".encode(), "sub/a.txt": b"a"}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name in read(folder).keys() - files.keys():
        (folder / name).unlink()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read(folder: Path) -> dict[str, bytes]:
    paths = [path for pattern in PATTERNS for path in folder.glob(pattern)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def at_url(url: str, folder: Path) -> dict[str, bytes]:
    """What anybody finds there."""
    shutil.rmtree(folder, ignore_errors=True)
    mirror(url, folder).pull()
    return read(folder)


def assert_nothing_is_left_over(url: str) -> None:
    """Two heads, and the files of the newer one."""
    store = Objects(url)
    heads = sorted(name for name in store.names() if "/head-" in name)
    assert len(heads) == 2
    files = json.loads(store.get(heads[-1]))["files"].values()
    assert sorted(store.names()) == sorted([*heads, *(file["object"] for file in files)])


VERSIONS = 4


def commit_versions(place: Mirror, start: int = 1) -> Iterator[int]:
    for version in range(start, VERSIONS + 1):
        write(place.folder, content(version, VERSIONS))
        place.commit()
        yield version


class Moments:
    """Counts the moments of what is watched; at one of them something happens."""

    def __init__(self, chosen: int = -1, happening: Callable[[], None] = lambda: None):
        self.passed = 0
        self.chosen = chosen
        self.happening = happening

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.chosen + 1:
            self.happening()


def killed() -> None:
    raise KilledError


def commit_all(url: str, folder: Path, moments: Moments) -> int:
    """Commit all versions, unless killed; returns the last one whose commit returned."""
    done = 0
    with contextlib.suppress(KilledError):
        first = mirror(url, folder, moments)
        first.claim()
        for version in commit_versions(first):
            done = version
    return done


def test_a_kill_at_any_moment_loses_no_committed_version(tmp_path: Path):
    """...and the next writer, elsewhere, ends where an undisturbed one does."""
    versions = [{}, *(content(version, VERSIONS) for version in range(1, VERSIONS + 1))]
    calm = Moments()
    assert commit_all(f"memory://{uuid.uuid4()}/s", tmp_path / "calm", calm) == VERSIONS
    assert calm.passed > 50
    for chosen in range(calm.passed):
        url, folder = f"memory://{uuid.uuid4()}/s", tmp_path / str(chosen)
        done = commit_all(url, folder / "here", Moments(chosen, killed))
        found = at_url(url, folder / "reader")
        assert found in versions[done : done + 2], (chosen, done)
        second = mirror(url, folder / "there")
        second.claim()
        assert read(second.folder) == found
        for _ in commit_versions(second, versions.index(found) + 1):
            pass
        assert at_url(url, folder / "reader") == versions[VERSIONS]
        assert_nothing_is_left_over(url)


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_a_writer_that_was_paused_and_replaced_harms_nothing(tmp_path: Path, commits: int):
    """It is paused at any moment of a commit, while another claims the folder and commits."""
    refused = moments = 0
    for chosen in itertools.count():
        url, folder = f"memory://{uuid.uuid4()}/s", tmp_path / str(chosen)
        other = mirror(url, folder / "there")
        watched = Moments(chosen, lambda other=other: take_over(other, commits))
        paused = mirror(url, folder / "here")
        write(paused.folder, content(2, VERSIONS))
        paused.commit()
        paused.objects = Watched(url, watched)
        write(paused.folder, content(3, VERSIONS))
        try:
            paused.commit()
        except StoreError:  # most often TakenOverError; or what it has just stored is gone
            refused += 1
        if watched.passed <= chosen:
            break
        moments += 1
        assert at_url(url, folder / "reader") == read(other.folder), chosen
        write(other.folder, {**read(other.folder), "state": b"theirs, later"})
        other.commit()  # it was not disturbed, and has all its files still
        assert at_url(url, folder / "reader") == read(other.folder)
        write(paused.folder, content(4, VERSIONS))
        with pytest.raises(TakenOverError, match="was taken over by another process"):
            paused.commit()
        write(other.folder, {**read(other.folder), "state": b"theirs, last"})
        other.commit()
        assert_nothing_is_left_over(url)
    assert moments > 8 and 4 < refused < moments


def take_over(other: Mirror, commits: int) -> None:
    other.claim()
    for i in range(commits):
        write(other.folder, {**read(other.folder), "state": f"theirs {i}".encode()})
        other.commit()


def halfway(work: Callable[[Moments], None], chosen: int) -> Callable[[], None]:
    """Do something up to a moment; returns what does the rest of it."""
    reached, goes_on = threading.Event(), threading.Event()

    def pause() -> None:
        reached.set()
        assert goes_on.wait(60)

    def do() -> None:
        work(Moments(chosen, pause))
        reached.set()

    thread = threading.Thread(target=do)
    thread.start()
    assert reached.wait(60)

    def rest() -> None:
        goes_on.set()
        thread.join()

    return rest


def test_two_writers_who_go_on_from_one_head_never_mix(tmp_path: Path):
    """One reads the head and commits in the midst of the other's commit, in two parts itself."""
    winners = [
        commit_in_the_midst(tmp_path / f"{first} {second}", first, second)
        for first, second in itertools.product(range(12), range(12))
    ]
    assert winners.count(1) > 20 and winners.count(2) > 20


def commit_in_the_midst(folder: Path, first: int, second: int) -> int:
    """Returns how many of the two have committed."""
    url = f"memory://{uuid.uuid4()}/s"
    one, other = mirror(url, folder / "here"), mirror(url, folder / "there")
    committed: list[dict[str, bytes]] = []
    rest: list[Callable[[], None]] = []

    def commit(place: Mirror) -> None:
        with contextlib.suppress(StoreError):
            place.commit()
            committed.append(read(place.folder))

    def go_on_from_there(moments: Moments) -> None:
        other.pull()
        write(other.folder, {**read(other.folder), "best": b"theirs"})
        other.objects = Watched(url, moments)
        commit(other)

    write(one.folder, content(1, VERSIONS))
    one.commit()
    begin = Moments(first, lambda: rest.append(halfway(go_on_from_there, second)))
    one.objects = Watched(url, begin)
    write(one.folder, content(2, VERSIONS))
    commit(one)
    for go_on in rest:
        go_on()
    assert at_url(url, folder / "reader") in committed, (first, second)
    mirror(url, folder / "third").claim()
    assert_nothing_is_left_over(url)
    return len(committed)


def test_of_two_who_claim_at_once_one_wins(url: str, tmp_path: Path):
    one, other = mirror(url, tmp_path / "one"), mirror(url, tmp_path / "other")
    write(one.folder, content(1, VERSIONS))
    one.commit()
    one.base = other.base = one.latest()
    one.amend()
    with pytest.raises(TakenOverError):
        other.amend()


def test_only_what_changed_is_stored(url: str, tmp_path: Path):
    place = mirror(url, tmp_path / "here")
    numbers: list[int] = []
    for _ in commit_versions(place):
        place.commit()  # nothing to say
        numbers.append(place.base.number)
    assert numbers == [1, 2, 3, 4]
    stored = {name: int(file.object.split("/")[-1][:6]) for name, file in place.base.files.items()}
    assert stored == {"best": 4, "sub/a.txt": 1, "confusion.npz": 4}


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?"])
def test_a_damaged_object_is_noticed_and_nothing_is_overwritten(
    url: str, tmp_path: Path, damage: Callable[[bytes], bytes]
):
    place = mirror(url, tmp_path / "here")
    write(place.folder, content(1, VERSIONS))
    place.commit()
    state = place.base.files["state"].object
    place.objects.replace(state, damage(place.objects.get(state)))
    other = mirror(url, tmp_path / "there")
    write(other.folder, {"state": b"older"})
    for take in (other.pull, other.claim):
        with pytest.raises(StoreError) as told:
            take()
        assert state in str(told.value) and "remove" in str(told.value)
        assert read(other.folder)["state"] == b"older"


def test_a_damaged_head_and_a_missing_file_are_noticed(url: str, tmp_path: Path):
    place = mirror(url, tmp_path / "here")
    write(place.folder, content(1, VERSIONS))
    place.commit()
    place.objects.delete(place.base.files["state"].object)
    for take in (mirror(url, tmp_path / "there").pull, mirror(url, tmp_path / "there").claim):
        with pytest.raises(StoreError, match="a head whose files are missing"):
            take()
    place.objects.replace("v000/f1/head-000009.json", b"{}")
    with pytest.raises(StoreError, match="expected a head"):
        mirror(url, tmp_path / "there").pull()


def test_a_name_that_leads_out_of_the_folder_is_not_followed(url: str, tmp_path: Path):
    place = mirror(url, tmp_path / "here")
    write(place.folder, content(1, VERSIONS))
    place.commit()
    head = json.loads(place.objects.get("v000/f1/head-000001.json"))
    for name in ("sub/../../out.txt", "../out.txt", "sub/x/out.txt", "other"):
        head["files"][name] = head["files"]["state"]
    place.objects.replace("v000/f1/head-000001.json", json.dumps(head).encode())
    assert at_url(url, tmp_path / "there").keys() == {"state", "best", "sub/a.txt"}
    assert not list(tmp_path.rglob("out.txt")) and not list(tmp_path.rglob("other"))


def test_a_pull_of_some_files_leaves_the_others(url: str, tmp_path: Path):
    place, other = mirror(url, tmp_path / "here"), mirror(url, tmp_path / "there")
    write(place.folder, content(1, VERSIONS))
    place.commit()
    write(other.folder, {"best": b"mine", "sub/old.txt": b"gone"})
    other.pull(("state", "sub/*.txt"))
    assert read(other.folder) == {**content(1, VERSIONS), "best": b"mine"}


# --- one driver ----------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Of drivers on three machines."""
    made = [tmp_path / name for name in ("one", "two", "three")]
    for folder in made:
        folder.mkdir()
    return made


def test_a_second_driver_is_refused_and_told_of_the_first(url: str, folders: list[Path]):
    store = Objects(url)
    with owner.owning(store, folders[0]):
        assert owner.is_driven(store)
        with pytest.raises(InputError) as refused, owner.owning(Objects(url), folders[1]):
            pass
        said = str(refused.value)
        assert f"process {os.getpid()}" in said and "is being run by another process" in said
    assert not owner.is_driven(store) and store.names() == []
    with owner.owning(store, folders[1]):
        pass


def test_a_dead_driver_is_taken_over_from(
    url: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
):
    store = Objects(url)
    with owner.owning(store, folders[0]):
        left = store.get(owner.NAME)
    store.replace(owner.NAME, left)  # as if killed
    with owner.owning(store, folders[0]):  # its own folder, whose lock is held: it must be dead
        pass
    store.replace(owner.NAME, left)
    with pytest.raises(InputError), owner.owning(store, folders[1]):
        pass
    monkeypatch.setattr(owner, "LIMIT_S", 0)
    with owner.owning(store, folders[1]):
        now = owner.owner_of(store)
        assert now and now.id != json.loads(left)["id"]


@pytest.mark.parametrize("off_s", [-86_400, 86_400])
def test_a_clock_that_is_off_neither_kills_a_driver_nor_keeps_a_dead_one_alive(
    url: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch, off_s: float
):
    store = Objects(url)
    with owner.owning(store, folders[0]):
        left = json.loads(store.get(owner.NAME))
    left["beat"] += off_s
    store.replace(owner.NAME, json.dumps(left).encode())
    watched: list[float] = []

    def beat(seconds: float) -> None:
        watched.append(seconds)
        left["beat"] += seconds
        store.replace(owner.NAME, json.dumps(left).encode())

    monkeypatch.setattr(owner, "WATCH_S", 1.0)
    monkeypatch.setattr(owner.time, "sleep", beat)
    with pytest.raises(InputError, match="being run"), owner.owning(Objects(url), folders[1]):
        pass
    assert watched, "an old sign is watched before its driver is taken for dead"
    monkeypatch.setattr(owner, "WATCH_S", 0.01)
    monkeypatch.setattr(owner.time, "sleep", lambda _: None)
    with owner.owning(Objects(url), folders[1]):
        pass


def test_of_two_who_take_over_at_once_one_stays(
    url: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
):
    store = Objects(url)
    with owner.owning(store, folders[0]):
        left = store.get(owner.NAME)
    store.replace(owner.NAME, left)
    monkeypatch.setattr(owner, "LIMIT_S", 0)
    other = json.loads(left) | {"id": "the other", "folder": "its own"}
    settled = Objects.replace

    def overtaken(self: Objects, name: str, data: bytes) -> None:
        settled(self, name, data)
        settled(self, name, json.dumps(other).encode())

    monkeypatch.setattr(Objects, "replace", overtaken)
    with pytest.raises(InputError, match="is being run"), owner.owning(store, folders[1]):
        pass
    assert json.loads(store.get(owner.NAME))["id"] == "the other"


def test_signs_of_life_are_given_and_their_loss_ends_the_driver(
    url: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
):
    beaten, interrupted = threading.Event(), threading.Event()
    settled = Objects.replace

    def replace(self: Objects, name: str, data: bytes) -> None:
        settled(self, name, data)
        beaten.set()

    monkeypatch.setattr(owner, "BEAT_S", 0.01)
    monkeypatch.setattr(Objects, "replace", replace)
    monkeypatch.setattr(os, "kill", lambda *_: interrupted.set())
    store, theirs = Objects(url), None
    with pytest.raises(InputError, match="was taken over"), owner.owning(store, folders[0]) as name:
        first = owner.owner_of(store)
        assert beaten.wait(60)
        now = owner.owner_of(store)
        assert first and now and first.id == now.id == name and now.beat > first.beat
        with owner.sharing(Objects(url), name):  # a driver in the same name does not disturb
            beaten.clear()
            assert beaten.wait(60) and not interrupted.is_set()
        theirs = now.model_copy(update={"id": "another"})
        settled(store, owner.NAME, theirs.model_dump_json().encode())
        assert interrupted.wait(60)
    assert owner.owner_of(store) == theirs, "it is not ours to remove"
    with pytest.raises(InputError, match="was taken over"), owner.sharing(store, name):
        pass


# --- a study -------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Goes to a machine of that name: it has nothing in common with the others but the URL."""
    return lambda name: monkeypatch.setenv("CITYSEG_CACHE", str(tmp_path / "machines" / name))


def remote(url: str, role: home.Role = "driver") -> RemoteHome:
    opened = open_home(url, role)
    assert isinstance(opened, RemoteHome)
    return opened


def upload(local: Study, url: str) -> RemoteHome:
    """A driver's home with a study that was made in a folder."""
    driver = remote(url)
    shutil.copytree(local.folder, driver.study.folder, dirs_exist_ok=True)
    driver.push()
    for folder in sorted(driver.study.folder.glob("v*/f*")):
        place = f"{folder.parent.name}/{folder.name}"
        Mirror(driver.objects, place, folder, CELL_FILES).commit()
    driver.pull()
    return driver


def run(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    *words: object,
) -> tuple[int, str, str]:  # fmt: skip
    """Run a command in this process; returns its code, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    capsys.readouterr()
    code = main()
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def rows(tmp_path: Path) -> Study:
    return make_study_of_rows(tmp_path / "results")


def test_the_status_of_a_url_is_that_of_the_folder(
    url: str, rows: Study, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    machine("driver's")
    driver = upload(rows, url)
    _, local, _ = run(status.main, monkeypatch, capsys, rows.folder)
    machine("mine")
    code, out, _ = run(status.main, monkeypatch, capsys, url)
    assert code == 0 and out == local.replace(str(rows.folder), url, 1)
    with owner.owning(driver.objects, driver.study.folder):
        above = url.rpartition("/")[0]
        _, out, _ = run(status.main, monkeypatch, capsys, "--results", above)
        assert out.startswith(f"{url}: being run now\n")
    code, _, err = run(status.main, monkeypatch, capsys, "t", "--results", above)
    assert code == 2 and err.count("\n") == 1 and f"no study {above}/t" in err
    assert "expected one of s" in err


def test_a_study_that_grows_is_followed(
    url: str, rows: Study, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    machine("driver's")
    driver = upload(rows, url)
    machine("mine")
    reader = remote(url, "reader")
    reader.pull()
    before = Board.read(reader.study)
    assert before.rows == Board.read(rows).rows
    driver.study.pruned_file(5).write_text("behind\n")
    driver.study.pruned_file(3).unlink()
    driver.push()
    driver.fail(5, 1, "crashed")
    fetched: list[str] = []
    fetch_one = Objects.fetch
    monkeypatch.setattr(
        Objects,
        "fetch",
        lambda self, name, path: (fetched.append(name), fetch_one(self, name, path)),
    )
    reader.pull()
    assert len(fetched) == 2, "nothing is fetched again"
    after = Board.read(reader.study)
    assert (after.rows[5].pruned, after.rows[3].pruned) == ("behind", "")
    assert after.rows[5].cell(1).reason == "crashed"


def test_all_but_weights_and_states_is_there_to_be_analysed(
    url: str, rows: Study, machine: Callable[[str], None]
):
    for cell in (rows.cell(2, 1), rows.cell(5, 1)):
        cell.state.parent.mkdir(parents=True)
        cell.state.write_bytes(b"state")
        cell.best_weights.write_bytes(b"weights")
    machine("driver's")
    upload(rows, url)
    machine("mine")
    found = find("s", Path(url.rpartition("/")[0]))
    files = [
        {path.relative_to(study.folder): path.read_bytes() for path in study.folder.rglob("*.*")
         if path.is_file() and not path.name.startswith(".")}
        for study in (found, rows)
    ]  # fmt: skip
    assert any(path.parent.name == "predictions" for path in files[0])
    heavy = {path for path in files[1] if path.name in ("state.pt", "best.safetensors")}
    assert len(heavy) == 4 and files[0] == {p: files[1][p] for p in files[1].keys() - heavy}


@pytest.mark.parametrize("keep", ["all", "best", "none", "top-2"])
def test_weights_at_the_url_are_kept_and_removed_as_in_a_folder(
    url: str, tmp_path: Path, machine: Callable[[str], None], keep: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    local = make_study_with_weights(tmp_path, keep)
    machine("driver's")
    driver = upload(local, url)
    for path in driver.study.folder.rglob("*.safetensors"):
        path.unlink()  # a driver has none of them
    for _ in range(2):
        driver.tidy(Board.read(driver.study))
    tidy(Board.read(local))
    machine("mine")
    copy = tmp_path / "copy"
    code, out, _ = run(fetch.main, monkeypatch, capsys, url, copy)
    assert code == 0 and out == f"{copy}\n"
    assert with_weights(Study(copy)) == with_weights(local)
    left = [sorted(p.relative_to(f).as_posix() for p in f.glob("v*/f*/last/*"))
            for f in (copy, local.folder)]  # fmt: skip
    assert left[0] == left[1]
    assert Board.read(Study(copy)).rows == Board.read(local).rows
    code, _, err = run(fetch.main, monkeypatch, capsys, url, copy)
    assert code == 2 and "is there already" in err


@pytest.fixture
def plan(frames: list[Frame], tiny_city: Path) -> Plan:
    return Plan(tiny_config(), Path("own.yaml"), tiny_city, "other", frames, {})


def test_a_driver_that_was_overtaken_writes_nothing_more(
    url: str, plan: Plan, machine: Callable[[str], None]
):
    machine("one")
    first = remote(url)
    begin(first.study, plan)
    first.push()
    machine("two")
    second = remote(url)
    second.pull()
    begin(second.study, plan)
    second.push()  # nothing differs, but it is the writer now
    record = second.study.read()
    first.study.write(record.model_copy(update={"command": "from the grave"}))
    with pytest.raises(TakenOverError):
        first.push()
    second.pull()
    assert second.study.read() == record


def test_a_driver_begins_with_what_is_at_the_url(
    url: str, rows: Study, machine: Callable[[str], None]
):
    machine("driver's")
    driver = upload(rows, url)
    files = {path: path.read_bytes() for path in driver.study.folder.rglob("*") if path.is_file()}
    driver.study.row_file(6).parent.mkdir()
    driver.study.row_file(6).write_text("never committed")
    driver.study.cell(7, 1).folder.mkdir(parents=True)
    driver.study.cell(7, 1).epochs.write_text("never committed")
    driver.study.record_file.write_text("never committed")
    (driver.study.folder / "optuna.db-journal").write_text("of a database that was not committed")
    with remote(url).driving():
        now = {path: path.read_bytes() for path in driver.study.folder.rglob("*") if path.is_file()}
    assert {path: now[path] for path in files} == files
    assert {path.name for path in now.keys() - files.keys()} <= {".name", ".pull.lock"}


# --- a cell --------------------------------------------------------------------------------------


@pytest.fixture
def _thin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cityseg.model.get_model", thin_resnet)


@pytest.fixture
def train_there(monkeypatch: pytest.MonkeyPatch, url: str) -> Callable[..., list[int]]:
    """Trains fold 1 as a worker does; returns the epochs that it reported."""

    def train(step: Callable[[], None] = lambda: None) -> list[int]:
        reported: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr("study.trial.tune.report", lambda r: reported.append(r.get("epoch", -1)))
            patch.setattr("study.home.Objects", lambda url: Watched(url, step))
            with contextlib.suppress(KilledError):
                trial.run_cell({"study": url, "variant": 0, "fold": 1, "cpus": 1})
        return reported

    return train


@pytest.fixture
def begun(url: str, plan: Plan, machine: Callable[[str], None]) -> RemoteHome:
    """A study at the URL, nothing of it trained."""
    machine("driver's")
    driver = remote(url)
    begin(driver.study, plan)
    driver.push()
    return driver


@pytest.fixture
def calm(plan: Plan, begun: RemoteHome, tmp_path: Path, _thin: None) -> Cell:
    """The same cell in a folder, undisturbed."""
    train, val = begun.study.read_folds().split(plan.frames, 1)
    cell = Cell(tmp_path / "calm")
    for _ in train_cell(plan.config, train, val, cell, torch.device("cpu")):
        pass
    return cell


@pytest.mark.parametrize("url", ["file"], indirect=True)
def test_a_killed_worker_is_continued_elsewhere_to_the_same_bits(
    url: str, begun: RemoteHome, calm: Cell, train_there: Callable[..., list[int]], tmp_path: Path,
    machine: Callable[[str], None],
):  # fmt: skip
    """Killed again and again, at other moments of its commits, each time on another machine."""
    reported: list[int] = []
    kills = 0
    for start, chosen in enumerate((20, 45, 33, 60, 24, 71, 1000)):
        machine(f"worker {start}")
        moments = Moments(chosen, killed)
        reported += train_there(moments)
        kills += moments.passed > chosen
        begun.pull_cell(0, 1)
        committed = [epoch.epoch for epoch in read_epochs(begun.study.cell(0, 1).epochs)]
        assert reported == committed[: len(reported)], "what was reported is there"
        assert len(committed) - len(reported) <= 1
        reported = committed
    assert kills >= 4 and begun.study.cell(0, 1).status() == "done"
    whole = Cell(tmp_path / "whole")
    Mirror(begun.objects, "v000/f1", whole.folder, CELL_FILES).pull()
    assert_same_result(whole, calm)
    predictions = [sorted(p.read_bytes() for p in c.predictions.iterdir()) for c in (whole, calm)]
    assert predictions[0] == predictions[1] and not whole.state.exists()
    assert not begun.study.cell(0, 1).best_weights.exists(), "no table needs them"


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_a_machine_keeps_no_cell_that_is_finished_or_idle(
    url: str, begun: RemoteHome, calm: Cell, train_there: Callable[..., list[int]],
    machine: Callable[[str], None],
):  # fmt: skip
    machine("worker's")
    worker = remote(url, "worker").study
    for variant in (1, 2):
        worker.cell(variant, 1).state.parent.mkdir(parents=True)
        worker.cell(variant, 1).state.write_bytes(b"large")
    with filelock.FileLock(worker.folder / "v002" / ".f1.lock"):  # at work
        assert train_there() == [1, 2, 3]
    assert not worker.cell(0, 1).folder.exists() and not worker.cell(1, 1).folder.exists()
    assert worker.cell(2, 1).state.exists()


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_a_failure_is_committed_with_its_reason_and_forgotten_at_the_next_start(
    url: str, begun: RemoteHome, calm: Cell, train_there: Callable[..., list[int]],
    machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    machine("worker's")
    cell = begun.study.cell(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "frames_here", lambda _: [])
        assert train_there() == [-1]
    begun.pull_cell(0, 1)
    assert cell.status() == "failed" and "frames" in cell.failure.read_text()
    with remote(url, "worker").training(0, 1):
        begun.pull_cell(0, 1)
        assert cell.status() == "pending"
        begun.fail(0, 1, "crashed 3 times")
    assert cell.failure.read_text() == "crashed 3 times\n"
    assert train_there() == [1, 2, 3]
    begun.pull_cell(0, 1)
    assert cell.status() == "done"


def fail() -> None:
    raise StoreError("cannot use the store")


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_trouble_with_the_store_is_not_a_failure_of_the_cell(
    url: str, begun: RemoteHome, calm: Cell, train_there: Callable[..., list[int]],
    machine: Callable[[str], None],
):  # fmt: skip
    machine("worker's")
    for chosen in (2, 40):  # before the training, and within: Ray is to try again
        with pytest.raises(StoreError):
            train_there(Moments(chosen, fail))
        begun.pull_cell(0, 1)
        assert not begun.study.cell(0, 1).failure.exists()


def test_a_store_that_is_gone_is_one_line_also_within_tune():
    from study.tuning import TuneError, unwrapped_errors

    with pytest.raises(StoreError, match="cannot use the store"), unwrapped_errors():
        try:
            fail()
        except StoreError:
            raise TuneError("Traceback ...") from None  # as Tune does
    with pytest.raises(TuneError), unwrapped_errors():
        raise TuneError("a mistake of ours")


def test_a_fetch_that_fails_is_not_in_the_way_of_the_next(
    url: str, rows: Study, tmp_path: Path, machine: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    machine("driver's")
    upload(rows, url)
    fetch_one, left = Objects.fetch, iter(range(9))

    def cut_off(self: Objects, name: str, path: Path) -> None:
        if next(left, None) is None:
            raise StoreError("cannot use the store")
        fetch_one(self, name, path)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "fetch", cut_off)
        code, _, err = run(fetch.main, monkeypatch, capsys, url, tmp_path / "copy")
    assert code == 2 and err == "error: cannot use the store\n"
    code, _, err = run(fetch.main, monkeypatch, capsys, f"{url}s", tmp_path / "copy")
    assert code == 2 and err.startswith("error: no study")
    assert run(fetch.main, monkeypatch, capsys, url, tmp_path / "copy")[0] == 0
    copy = Study(tmp_path / "copy")
    assert Board.read(copy).rows == Board.read(rows).rows
    assert not [path for path in copy.folder.iterdir() if path.name.startswith(".")]


def test_the_commands_that_are_told_can_be_typed(
    url: str, tmp_path: Path, machine: Callable[[str], None], capsys: pytest.CaptureFixture[str]
):
    rows = make_study_of_rows(tmp_path / "my results")
    for variant in (3, 4, 5):
        shutil.rmtree(rows.folder / f"v00{variant}")
    record = rows.read()
    rows.write(record.model_copy(update={"search": Search(variants=3)}))
    capsys.readouterr()
    assert study.run.conclude(home.Home(rows), Console(soft_wrap=True)) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"figures, tables: python -m study.analyze '{rows.folder}'"
    machine("driver's")
    upload(rows, url)
    machine("mine")
    table = variant_table(find(url, tmp_path))
    assert report._commands(table.variant, table, embedded=False)[report.ANALYZE] == (
        f"python -m study.analyze {url} --variant 0"
    ), "not the folder that mirrors it here"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WorkerCrashedError(), "The worker died unexpectedly while executing this task."),
        (ConnectionError("Ray client disconnected\nlong"), "Ray client disconnected; the same"),
    ],
)
def test_a_driver_on_the_cluster_that_is_lost_is_told_in_one_line(
    rows: Study, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
):
    from study import tuning

    def lose(*_: object, **__: object) -> None:
        raise error

    board, allotment = Board.read(rows), Allotment(1, 1, 0, 10**9)
    monkeypatch.setattr(tuning, "_drive_there", SimpleNamespace(remote=lambda *_: "task"))
    monkeypatch.setattr(tuning.ray, "wait", lose)
    cluster = tuning.Cluster(allotment, own=False, remote=True, dashboard="")
    console = Console(file=io.StringIO())
    with pytest.raises(TransientError) as lost:
        tuning.run(home.Home(rows), board, cluster, console, None)
    assert str(lost.value).startswith(f"the study's driver on the cluster was lost: {said}")
    assert str(lost.value).endswith("; the same command goes on")


def test_a_driver_on_the_cluster_whose_user_is_gone_is_told_in_one_line(rows: Study):
    from study import tuning

    refused = pytest.raises(InputError, match="study fake_1 is being run by another process; wait")
    with tuning._alone(rows, 1), refused, tuning._alone(rows, 0):
        pass
    with tuning._alone(rows, 0):
        pass


def test_a_frame_that_cannot_be_read_is_not_told_as_a_fault_of_tensorboards(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    local = Study(tmp_path / "s")
    begin(local, plan)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "frame.png")

    monkeypatch.setattr(trial, "train_cell", refuse)
    with pytest.raises(PermissionError, match=r"frame\.png"):
        trial.run_cell({"study": str(local.folder), "variant": 0, "fold": 1, "cpus": 1})
    monkeypatch.setattr("study.monitor.EventsWriter", refuse)
    monkeypatch.setattr(trial, "PAUSE_S", 0)
    with pytest.raises(DiskError, match=r"cannot write .*v000/f1/tensorboard: Permission denied"):
        trial.run_cell({"study": str(local.folder), "variant": 0, "fold": 1, "cpus": 1})


# --- all of it -----------------------------------------------------------------------------------


@pytest.mark.xdist_group("ray")
def test_a_whole_study_at_a_url(tiny_city: Path, tmp_path: Path):
    """Two rows and a search's storage; run, looked at and analysed on three machines."""
    url = f"file://{tmp_path}/url"

    def on(machine: str, *words: object) -> str:
        environment = {**os.environ, "CITYSEG_CACHE": str(tmp_path / machine)}
        done = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, timeout=240, env=environment
        )
        assert done.returncode == 0 and "error" not in done.stderr, done.stdout + done.stderr
        return done.stdout

    options = ("--results", url, "--grid", "train.lr=[2e-3]", "--storage", "journal")
    words = [*study_command(tiny_city, tmp_path, *options), "train.epochs=1"]
    ran = on("one", *words)
    assert f"all of it is in {url}/tiny" in ran and ran.count("  epoch 1/1") == 4
    analysed = on("two", sys.executable, "-m", "study.analyze", f"{url}/tiny")
    table = ran[ran.index("┏") : ran.index("┘")]
    assert table in analysed
    again = on("three", *words)
    assert table in again and "  epoch " not in again, "nothing is left to be done"
    copy = Study(tmp_path / "copy")
    RemoteHome(f"{url}/tiny", copy.folder).pull(CELL_FILES)
    assert (copy.folder / "optuna.journal").stat().st_size > 0
    held = {path.parent.parent.name for path in copy.folder.rglob("best.safetensors")}
    assert len(held) == 1, "the best row's"
