"""What the chaos run decides by: which fault comes next, what counts as left behind."""

import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest
from fake_study import make_study_of_rows

from benchmarks import chaos, hygiene
from benchmarks.chaos import Count, verdict
from benchmarks.faults import FAULTS, MARK, Bag, Fault, Scene, family
from benchmarks.hygiene import Left, judge
from study.store import Study


def test_every_kind_of_fault_comes_before_any_comes_again():
    bag = Bag(random.Random(0), own_disk=True)
    for round_ in (1, 2, 3):
        drawn = [bag.take(lambda _: True) for _ in FAULTS]
        assert Counter(drawn) == Counter(FAULTS), round_


def test_kinds_that_may_not_come_now_are_the_first_when_they_may():
    bag = Bag(random.Random(1), own_disk=True)
    late = [fault for fault in FAULTS if fault.retried]
    early = [bag.take(lambda fault: not fault.retried) for _ in range(len(FAULTS) - len(late))]
    assert not set(early) & set(late)
    assert Counter(bag.take(lambda _: True) for _ in late) == Counter(late)


def test_nothing_comes_where_nothing_may():
    assert Bag(random.Random(2), own_disk=True).take(lambda _: False) is None


def test_without_a_disk_of_its_own_no_disk_is_filled():
    bag = Bag(random.Random(3), own_disk=False)
    assert {fault.name for fault in FAULTS} - {fault.name for fault in bag.kinds} == {"disk full"}


def test_what_is_told_names_every_kind():
    count = Count()
    count.faults["raylet killed"] = 3
    assert "3 faults" in str(count) and "raylet killed 3" in str(count)
    assert all(fault.name in str(count) for fault in FAULTS)


def test_a_cell_may_fail_only_once_all_rows_are_drawn(tmp_path: Path):
    """The base row has no file of its own, and counts."""
    study = make_study_of_rows(tmp_path)
    rows = len(study.rows())
    assert len(list(study.folder.glob("v*/row.yaml"))) == rows - 1
    with subprocess.Popen([sys.executable, "-c", ""]) as driver:
        for wanted in (rows, rows + 1):
            scene = Scene(driver, [], "", study, tmp_path, tmp_path, None, wanted, random.Random(0))
            assert scene.drawn_to_its_end() == (wanted == rows)


@pytest.mark.parametrize(("drawn", "struck"), [(True, 1), (False, 0)])
def test_what_had_to_wait_for_all_rows_strikes_once_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: bool, struck: int
):
    monkeypatch.setattr(chaos.time, "sleep", lambda _: None)
    polls = iter([None, None, None, 0])
    scene = Mock(**{"driver.poll": lambda: next(polls), "drawn_to_its_end.return_value": drawn})
    strikes: list[object] = []
    late = Fault("late", lambda scene: not strikes.append(scene), fails=True)
    bag, count = Mock(kinds=[late, Fault("other", Mock(side_effect=AssertionError))]), Count()
    storm = chaos.Storm(Mock(), Study(tmp_path / "none"), None, bag, random.Random(0), count, 1)
    assert storm._ends(scene)
    assert (len(strikes), count.faults["late"], storm.struck) == (struck, struck, drawn)


def test_what_does_not_go_by_itself_is_a_problem_and_is_killed(tmp_path: Path):
    mark = uuid.uuid4().hex
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(words, env={**os.environ, MARK: mark}) as left:
        assert [process.pid for process in family(mark)] == [left.pid]
        scene = Scene(
            left, words, mark, Study(tmp_path), tmp_path, tmp_path, None, 1, random.Random(0)
        )  # fmt: skip
        scene.wait_until_gone(limit_s=0.1)
        assert left.wait(60) == -9
    assert len(scene.problems) == 1 and "left running" in scene.problems[0]
    assert family(mark) == []


def test_more_and_more_files_are_told_and_those_made_once_are_not():
    once = [Left({"cache"}, set()) for _ in range(7)]
    assert judge("start", once, {}) == []
    more = [Left({"cache", *(f"t{i}" for i in range(n))}, set()) for n in range(7)]
    assert judge("start", more, {}) == ["start: more and more files, such as t5"]
    assert judge("start", more, {}, more=1) == []


@pytest.mark.parametrize(("leak", "told"), [(0, 0), (1, 1)])
def test_what_ray_itself_leaves_is_no_trouble_and_what_we_leave_is(
    monkeypatch: pytest.MonkeyPatch, leak: int, told: int
):
    def starts(_: object, way: object, cycles: int) -> list[Left]:
        each = 1 + leak * (way is hygiene.our_start)
        return [Left({f"d{i}" for i in range(each * n)}, set()) for n in range(cycles)]

    monkeypatch.setattr(hygiene, "in_fresh_process", starts)
    assert len(hygiene.one_process(10)) == told


def test_shared_memory_sessions_and_processes_are_told():
    lefts = [Left({"ray/session_2026/logs"}, {"plasma"}, ["raylet"])]
    told = judge("start", lefts, {"of Ray's": "ray/session_2"})
    assert told == [
        "running on: raylet", "start: shared memory plasma",
        "start: 1 files of Ray's, such as ray/session_2026/logs",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "code"),
    [
        (Count(faults=Counter({"SIGINT": 1})), 0),
        (Count(), 1),
        (Count(faults=Counter({"SIGINT": 1}), epochs_lost=1), 1),
        (Count(faults=Counter({"SIGINT": 1}), problems=["study 1: v000 differs"]), 1),
    ],
)
def test_only_faults_that_did_no_harm_are_sound(
    count: Count, code: int, capsys: pytest.CaptureFixture[str]
):
    assert verdict(1, count) == code
    assert capsys.readouterr().out.startswith("NOT SOUND" if code else "equal to the bit")
