"""The benchmarks: what they print and record; and that the plain way is the same work as ours."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import thin_resnet

import cityseg.train
from benchmarks import data, evaluate, measure, plain, step, study
from benchmarks.measure import Comparison, Options, Result, Timing
from cityseg.cache import ensure
from cityseg.cell import Epoch, write_epochs
from cityseg.config import Config, Data, Model
from cityseg.data import Frame, index, read_frame
from cityseg.errors import InputError
from cityseg.inputs import normalise
from cityseg.model import build_unet
from cityseg.plan import resolve
from cityseg.samples import val_loader

RESULT = Result(
    name="stub",
    headline=Comparison("work", "s", Timing.of([2.0]), Timing.of([6.0]), 0.5, "nothing"),
    rows=[Comparison("work of ours alone", "s", Timing.of([1.0]))],
    facts={"a list": [1, 2.5], "a mapping": {"inner": 1e-9}},
    tables={"more": [{"name": "a", "value": 1.0}]},
)


@pytest.fixture(autouse=True)
def _one_thread_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of small sums mostly wait for each other; here they are set by conftest.py."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_timing_is_the_median_and_the_tenth_and_ninetieth_percentile():
    timing = Timing.of([float(i) for i in (5, 0, 10, 1, 9, 2, 8, 3, 7, 4, 6)])
    assert (timing.low, timing.median, timing.high, timing.n) == (1.0, 5.0, 9.0, 11)
    assert timing.times(1000).median == 5000.0


def test_the_ratio_is_plain_over_ours():
    assert RESULT.headline.ratio == 3.0
    assert RESULT.rows[0].ratio is None


def test_the_last_line_is_one_json_object_with_the_figures(capsys: pytest.CaptureFixture[str]):
    measure.report(RESULT, Options(json=True, record=False))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = {"plain": 6.0, "ours": 2.0, "ratio": 3.0, "limit": 0.5, "n": 1, "unit": "s"}
    assert {key: found[key] for key in wanted} == wanted
    assert found["spread"]["plain"] == [6.0, 6.0]
    assert found["rows"][0]["plain"] is None


def test_a_run_is_added_to_the_record_and_the_older_stay(tmp_path: Path):
    for _ in range(2):
        measure.report(RESULT, Options(results=tmp_path))
    first, second = json.loads((tmp_path / "stub.json").read_text())
    assert first["ratio"] == second["ratio"] == 3.0
    assert {"cpu", "cores", "versions", "commit", "dirty", "date"} <= first["environment"].keys()
    assert first["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize("text", ["[{", '{"ratio": 1}'])
def test_a_damaged_record_is_refused_and_left_as_it_is(tmp_path: Path, text: str):
    record = tmp_path / "stub.json"
    record.write_text(text)
    with pytest.raises(InputError, match="is not a record"):
        measure.append(record, {})
    assert record.read_text() == text


def test_no_record_is_written_if_none_is_wanted(tmp_path: Path):
    measure.report(RESULT, Options(record=False, results=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_calls_are_timed_in_turns_and_none_always_comes_first():
    order: list[str] = []
    calls: dict[str, Callable[[], object]] = {
        name: (lambda name=name: order.append(name)) for name in "abc"
    }
    times = measure.alternate(calls, n=2, warmup=1)
    assert "".join(order) == "abcbcacab"
    assert {timing.n for timing in times.values()} == {2}


def test_an_untimed_call_comes_before_each_timed_one():
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    measure.alternate(calls, n=1, warmup=0, lead=2)
    assert "".join(order) == "aaabbb"


def test_a_call_beside_has_a_process_and_environment_of_its_own_and_its_errors_arrive():
    with measure.beside(once, "SOME_VALUE", environment={"SOME_VALUE": "1"}) as call:
        assert call() == (1, "1")
        with pytest.raises(RuntimeError, match=r"process beside: ValueError.*called 2 times"):
            call()
    assert "SOME_VALUE" not in os.environ


def once(variable: str) -> Callable[[], object]:
    """Answers once."""
    calls: list[str] = []

    def call() -> tuple[int, str]:
        calls.append(os.environ[variable])
        if len(calls) > 1:
            raise ValueError(f"called {len(calls)} times")
        return len(calls), calls[0]

    return call


def test_too_few_frames_are_refused(tiny_city: Path):
    assert len(measure.frames_of(tiny_city, 12)) == 12
    with pytest.raises(InputError, match="got 12, expected at least 13"):
        measure.frames_of(tiny_city, 13)


def test_operations_are_counted_two_a_multiply_add_forward_and_backward():
    def layer() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.Conv2d(5, 7, 1))

    pixels = 2 * 4 * 6
    forward = 2 * pixels * (3 * 5 + 5 * 7)
    backward = 2 * forward - 2 * pixels * 3 * 5  # the image wants no gradient
    assert measure.step_flops(layer, 2, (4, 6)) == forward + backward


def test_the_shared_parts_need_no_ray_optuna_or_albumentations_and_plain_none_of_ours():
    program = """
import sys
for name in ("ray", "optuna", "albumentations", "study"):
    sys.modules[name] = None
import benchmarks.plain
assert not any(name.partition(".")[0] == "cityseg" for name in sys.modules)
import benchmarks.measure
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_plain_network_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        model = plain.PlainUNet()
    assert sum(p.numel() for p in model.parameters()) == 222_985_043


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_the_plain_network_with_our_weights_computes_our_logits(encoder: str):
    torch.manual_seed(0)
    settings = Model.model_validate({"encoder": encoder, "decoder_width": 0.05})
    ours, theirs = build_unet(settings).eval(), plain.PlainUNet(encoder, 0.05).eval()
    values = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    image = torch.randn(1, 3, 45, 70)
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), ours(image))


def test_a_plain_step_lowers_the_loss():
    torch.manual_seed(0)
    model = plain.PlainUNet("resnet18", 0.05).train()
    optimizer = plain.optimizer_of(model)
    image, target = torch.randn(2, 3, 32, 64), torch.randint(0, 19, (2, 32, 64))
    losses = [plain.step(model, optimizer, image, target) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_a_plain_validation_sample_is_ours_normalised(frames: list[Frame], config: Config):
    pairs = [(frame.image, frame.label) for frame in frames]
    image, target, full = plain.PlainFrames(pairs, config.data.input_size, train=False)[3]
    batch = next(iter(val_loader(frames[3:4], config, 0, pin=False)))
    torch.testing.assert_close(image[None], normalise(batch.image), rtol=0, atol=2e-3)
    assert torch.equal(target[None], batch.target.long())
    assert torch.equal(full, batch.full_targets[0].long())


def test_plain_counts_are_ours(frames: list[Frame]):
    scored = [evaluate.case(frame, (32, 64), seed) for seed, frame in enumerate(frames[:3])]
    ours, theirs = (way(scored).once() for way in (evaluate.OurCounts, evaluate.PlainCounts))
    labelled = sum(int((one.full != 255).sum()) for one in scored)
    assert evaluate.differences(ours, theirs)["pixels counted differently, low and full"] == [0, 0]
    assert ours[1].sum() == theirs[1].sum() == labelled
    assert np.trace(ours[1]) < labelled  # there is something to confuse


def test_a_pixel_counted_elsewhere_is_seen():
    counts = np.zeros((19, 19), np.int64), np.eye(19, dtype=np.int64)
    other = counts[0], np.roll(counts[1], 1, axis=1)
    difference = evaluate.differences(counts, other)
    assert difference["pixels counted differently, low and full"] == [0, 38]
    assert difference["pixels counted, low and full"] == [0, 19]


def test_samples_from_the_cache_are_albumentations_samples(
    frames: list[Frame], config: Config, tmp_path: Path
):
    cache = ensure(frames, tmp_path)
    assert data.largest_difference(frames, cache, config, 24) == 0


def test_a_frame_that_differs_by_little_is_seen(frames: list[Frame], config: Config):
    def one_grey_level_off(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        image, target = read_frame(frame)
        return image ^ 1, target

    assert data.largest_difference(frames, one_grey_level_off, config, 4) > 0


@pytest.mark.parametrize("factor", [0.8, 0.87, 1.0, 1.13])
def test_the_single_warp_goes_to_the_place_of_the_three_steps(factor: float):
    """On a ramp, which every resampling keeps, a warp that is off by a pixel shows."""
    h, w = 256, 512
    ramp = np.linspace(0, 255, w)[None].repeat(h, 0).astype(np.uint8)
    bands = np.arange(h)[:, None].repeat(w, 1).astype(np.uint8) // 64
    pixels = np.stack([ramp, ramp.T[:h].repeat(2, 1)[:, :w], ramp], -1), bands
    settings = Data(input_size=(128, 256))
    image, target = data.warped(pixels, factor, settings.input_size)
    ours = data.scaled(pixels, factor, settings)
    assert (target == 255).sum() == pytest.approx((ours[1] == 255).sum(), rel=0.03)
    inside = (target != 255) & (ours[1] != 255)
    inside[[0, -1]], inside[:, [0, -1]] = False, False
    difference = image.astype(int)[inside] - ours[0].astype(int)[inside]
    assert abs(difference.mean()) < 0.7
    assert (target != ours[1])[inside].mean() < 0.05


def test_the_data_benchmark_runs_from_the_command_line(
    tiny_city: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    words = "--frames 4 --size 32 64 --n 2 --block 1 --draws 4 --loader-samples 4 --workers 0"
    folders = ["--data", str(tiny_city), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["data", *words.split(), *folders, "--json"])
    assert data.main() == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"plain", "ours", "ratio", "limit", "n"} <= found.keys()
    assert found["ratio"] == pytest.approx(found["plain"] / found["ours"])
    difference = "largest difference from albumentations' three steps, grey levels or labels"
    assert found["facts"][difference] == 0
    assert len(json.loads((tmp_path / "data.json").read_text())) == 1


def test_the_step_benchmark_times_every_variant_beside_the_plain_step():
    options = step.StepOptions(size=(32, 64), encoder="resnet18", width=0.05, n=1)
    rows = step.time_steps("bfloat16", 1e9, {"float32": 1e9, "bfloat16": 2e9}, options)
    assert [row.what for row in rows] == [
        "step as configured, bfloat16", "step, float32", "step, float32, channels last",
        "step, bfloat16, channels last",
    ]  # fmt: skip
    assert [row.limit for row in rows] == [0.5, 1.0, 1.0, 0.5]
    assert all(row.plain is not None for row in rows)


def test_curves_are_compared_by_epoch_over_seeds():
    float32 = np.array([[3.0, 2.0], [5.0, 2.0]])
    table = step.curve_table(float32, float32 + np.array([[1.0, 0.0], [2.0, -1.0]]))
    assert table[0] == {
        "epoch": 1, "float32": 4.0, "bfloat16": 5.5, "difference": 1.5,
        "std of float32 over seeds": pytest.approx(2**0.5),
        "std of the difference": pytest.approx(0.5**0.5),
    }  # fmt: skip
    summary = step.summary(table)
    assert (summary["mean difference"], summary["difference of the last epoch"]) == (0.5, -0.5)
    assert summary["mean absolute difference"] == 1.0


def test_an_epoch_of_a_fold_is_timed_plain_and_with_and_without_cache(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cityseg.model.get_model", thin_resnet)
    options = study.StudyOptions(size=(32, 64), width=0.05, n=1, workers=0)
    ensure(frames, tmp_path / "cache")
    rows, facts = study.epochs(frames, tmp_path, options)
    assert [row.what for row in rows] == ["epoch of a fold", "epoch of a fold, without cache"]
    assert all(len(values) == 3 and min(values) > 0 for values in facts.values())
    assert len(list((tmp_path / "cache").glob("frames-*"))) == 1  # the fold's is the data set's


def test_the_first_epoch_and_all_cells_of_a_study_are_timed(tmp_path: Path):
    """Two cells whose tables appear while the study runs."""
    config = study.config_of(study.StudyOptions(folds=2), tmp_path)
    row = Epoch(1, 1.0, 1.0, 0.5, 0.5, 1e-4, train_s=0.002, val_s=0.001, images_per_s=1.0)

    @contextlib.contextmanager
    def way(folder: Path, root: Path, config: Config) -> Iterator[Callable[[], bool]]:
        finished = iter(
            [lambda: write_epochs(folder / "f1" / "epochs.csv", [row]),
             lambda: write_epochs(folder / "f2" / "epochs.csv", [row, row])]
        )  # fmt: skip

        def goes_on() -> bool:
            write = next(finished, None)
            if write:
                write()
            return write is not None

        yield goes_on

    ran = study.watch(way, tmp_path, tmp_path, config)
    assert ran.cells_s == pytest.approx([0.003, 0.006])
    assert ran.first_step_s == pytest.approx(ran.first_epoch_s - 0.003)
    assert ran.wall_s > ran.first_epoch_s > 0


def test_the_study_is_run_once_more_with_the_cores_shared_as_by_default(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[str, ...]] = []

    @contextlib.contextmanager
    def way(
        folder: Path, root: Path, config: Config, words: tuple[str, ...] = ()
    ) -> Iterator[Callable[[], bool]]:
        asked.append(words)
        seconds = float(len(asked))
        row = Epoch(1, 1.0, 1.0, 0.1, 0.1, 1e-4, seconds, 0.0, 5.0)
        for fold in (1, 2):
            write_epochs(folder / f"f{fold}" / "epochs.csv", [row])
        yield lambda: False

    monkeypatch.setattr(study, "bare_loop", way)
    monkeypatch.setattr(study, "study_run", way)
    options = study.StudyOptions(folds=2, dashboard=False, shared=True)
    rows, facts = study.overhead(frames, tmp_path, options)
    shared = "resources.cpus_per_trial=null"
    assert asked == [(), ("--no-dashboard",), ("--no-dashboard", shared)]
    settings = tmp_path / "settings.yaml"
    settings.write_text(study.config_of(options, tmp_path).to_yaml(), encoding="utf-8")
    root = frames[0].image.parents[3]
    plans = [resolve(settings, root, None, None, None, words) for words in ((), (shared,))]
    assert [plan.config.resources.cpus_per_trial for plan in plans] == [
        torch.get_num_threads(),
        None,
    ]
    assert [row.plain for row in rows] == [rows[0].plain] * 2
    assert "share the cores" in rows[1].what and "share the cores" not in rows[0].what
    assert facts["s a cell, bare and in the study, with cores shared last"] == [1.0, 2.0, 3.0]


def test_steps_are_told_apart_by_the_turn_in_which_they_lie_once_it_has_settled():
    begun = [0.0, 10.0, 20.0]
    ends = [-1.0, -0.5, 0.5, 1.0, 1.5, 1.75, 9.75, 10.25, 10.5, 11.5, 12.0, 19.9, 20.0, 21.5, 22.0]
    assert study.steps_by_turn(ends, begun) == [[0.5, 0.25], [0.5], [0.5]]


def test_the_end_of_every_step_of_a_fold_is_noted(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cityseg.model.get_model", thin_resnet)
    monkeypatch.setattr("cityseg.train.training_step", cityseg.train.training_step)  # to restore it
    options = study.StudyOptions(size=(32, 64), width=0.05, cell_epochs=2)
    root, ends = frames[0].image.parents[3], tmp_path / "ends.txt"
    before = time.time()
    study.timed_fold(tmp_path / "f1", root, study.config_of(options, tmp_path), ends)
    noted = [before, *map(float, ends.read_text().split()), time.time()]
    config = study.config_of(options, tmp_path)
    trained = len(index(root, "train")) // 2
    assert len(noted) - 2 == 2 * (trained // config.train.batch_size)
    assert noted == sorted(noted)


def test_a_study_that_fails_is_no_measurement(tmp_path: Path):
    config = study.config_of(study.StudyOptions(), tmp_path)
    with pytest.raises(RuntimeError, match="ended with 2: error: no folder"):
        study.watch(study.study_run, tmp_path, tmp_path / "nowhere", config)
