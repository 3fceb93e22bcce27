"""The pruning rule: what it must never do, what it must do, and how often noise misleads it."""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.pruning import BASELINE, MIN_FINISHED, RowCurves, Verdict, judge

EPOCHS = 30
FOLDS = 3
SEED_SD = 0.005
NUMBERS = st.integers(0, 2**32 - 1)


def curve(final: float, slower: float = 1.0, epochs: int = EPOCHS) -> np.ndarray:
    """Rises from 0.05 towards `final` and reaches it at the last epoch."""
    rise = 1 - (1 + np.arange(1, epochs + 1) / slower) ** -0.5
    return 0.05 + (final - 0.05) * rise / rise[-1]


def make_row(
    variant: int,
    final: float,
    rng: np.random.Generator,
    done: Sequence[int] = (EPOCHS,) * FOLDS,
    slower: float = 1.0,
) -> RowCurves:
    """A row with noise of seed and epoch, in folds of which each is one point harder."""
    curves = {}
    for fold, epochs in enumerate(done, start=1):
        noise = SEED_SD * rng.standard_normal() + 0.003 * rng.standard_normal(EPOCHS)
        curves[fold] = (curve(final, slower) - 0.01 * fold + noise)[:epochs]
    return RowCurves(variant, EPOCHS, curves)


def make_study(seed: int, finished: int = 8, spread: float = 0.03) -> list[RowCurves]:
    """Finished rows that end about 0.5, v000 among them."""
    rng = np.random.default_rng(seed)
    return [make_row(v, 0.5 + spread * rng.standard_normal(), rng) for v in range(finished)]


def make_candidate(seed: int, finished: int) -> RowCurves:
    """A row like those of `make_study` somewhere on its way, its cells at different epochs."""
    rng = np.random.default_rng([seed, 1])
    done = rng.integers(0, EPOCHS, FOLDS)
    return make_row(finished, 0.49 + 0.04 * rng.standard_normal(), rng, done.tolist())


def change(row: RowCurves, by: Callable[[int, np.ndarray], np.ndarray]) -> RowCurves:
    """The row with every fold's scores put through `by`."""
    return dataclasses.replace(row, curves={f: by(f, s) for f, s in row.curves.items()})


def relabel(row: RowCurves, label: Mapping[int, int]) -> RowCurves:
    """The row with its folds under other numbers."""
    return dataclasses.replace(row, curves={label[f]: s for f, s in row.curves.items()})


def reverse(row: RowCurves) -> RowCurves:
    """The same row, its folds told in the opposite order."""
    folds = sorted(row.curves, reverse=True)
    return dataclasses.replace(row, curves={fold: row.curves[fold] for fold in folds})


def ever_pruned(row: RowCurves, others: Sequence[RowCurves], together: bool = False) -> bool:
    """Whether any look prunes a row while its cells run, side by side or one after another."""
    wait = 0 if together else EPOCHS
    return any(
        judge(change(row, lambda f, s, at=at: s[: max(0, at - (f - 1) * wait)]), others, 3).prune
        for at in range(1, EPOCHS + (FOLDS - 1) * wait)
    )


def numbers(verdict: Verdict) -> list[float]:
    return [verdict.behind, verdict.room, verdict.noise]


@given(NUMBERS)
def test_the_baseline_is_never_pruned(seed):
    hopeless = dataclasses.replace(make_row(0, 0.2, np.random.default_rng(seed), (20, 20, 20)))
    others = make_study(seed)[1:]

    assert not judge(hopeless, others, FOLDS).prune
    assert judge(dataclasses.replace(hopeless, variant=99), others, FOLDS).prune


@given(NUMBERS, st.integers(0, 12), st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3))
def test_a_fold_that_is_harder_for_all_changes_no_verdict(seed, finished, harder):
    others, candidate = make_study(seed, finished), make_candidate(seed, finished)
    before = judge(candidate, others, FOLDS)

    after = judge(
        change(candidate, lambda fold, scores: scores - harder[fold - 1]),
        [change(row, lambda fold, scores: scores - harder[fold - 1]) for row in others],
        FOLDS,
    )

    assert (before.prune, before.leader) == (after.prune, after.leader)
    np.testing.assert_allclose(numbers(before), numbers(after), atol=1e-9)


@given(NUMBERS, st.permutations([1, 2, 3]))
def test_the_folds_numbers_mean_nothing(seed, order):
    label: dict[int, int] = dict(enumerate(order, start=1))
    others, candidate = make_study(seed), make_candidate(seed, 8)
    before = judge(candidate, others, FOLDS)

    after = judge(relabel(candidate, label), [relabel(row, label) for row in others], FOLDS)

    assert (before.prune, before.leader) == (after.prune, after.leader)
    np.testing.assert_allclose(numbers(before), numbers(after), atol=1e-9)
    seen = dict(zip(before.folds, before.epochs, strict=True))
    assert dict(zip(after.folds, after.epochs, strict=True)) == {
        label[fold]: epoch for fold, epoch in seen.items()
    }


@given(NUMBERS)
def test_the_order_of_rows_and_folds_means_nothing(seed):
    others, candidate = make_study(seed), make_candidate(seed, 8)
    shuffled = [reverse(row) for row in others]
    random.Random(seed).shuffle(shuffled)

    assert repr(judge(candidate, others, FOLDS)) == repr(judge(reverse(candidate), shuffled, FOLDS))


@given(NUMBERS, st.lists(st.integers(0, EPOCHS), min_size=3, max_size=3), st.floats(0, 0.1))
def test_a_row_level_with_the_leader_is_never_pruned(seed, done, spread):
    others = make_study(seed, 8, spread)
    leader = max(others, key=lambda row: np.mean([row.curves[f][-1] for f in (1, 2, 3)]))
    twin = change(leader, lambda fold, scores: scores[: done[fold - 1]])

    assert not judge(dataclasses.replace(twin, variant=99), others, FOLDS).prune


@given(NUMBERS, st.integers(0, 12))
def test_rows_that_are_not_finished_are_no_evidence(seed, finished):
    others, candidate = make_study(seed, finished), make_candidate(seed, finished)
    rng = np.random.default_rng([seed, 2])
    pruned = [make_row(100 + v, 0.9, rng, (EPOCHS, EPOCHS, EPOCHS - 1)) for v in range(5)]
    longer = [dataclasses.replace(row, variant=200, epochs=EPOCHS + 1) for row in others[:1]]

    assert repr(judge(candidate, others + pruned + longer, FOLDS)) == repr(
        judge(candidate, others, FOLDS)
    )


@pytest.mark.parametrize("finished", range(MIN_FINISHED + 3))
def test_a_hopeless_row_is_pruned_once_enough_rows_are_finished(finished):
    hopeless = make_row(99, 0.25, np.random.default_rng(1), (20, 4, 0))

    verdict = judge(hopeless, make_study(0, finished), FOLDS)

    assert verdict.prune == (finished >= MIN_FINISHED)
    assert verdict.finished == finished


def test_a_hopeless_row_is_pruned_before_half_of_its_first_fold():
    others, rng = make_study(3), np.random.default_rng(4)
    whole = make_row(99, 0.35, rng)
    pruned_at = next(
        epoch
        for epoch in range(1, EPOCHS + 1)
        if judge(dataclasses.replace(whole, curves={1: whole.curves[1][:epoch]}), others, 3).prune
    )

    assert pruned_at < EPOCHS / 2


def test_a_slow_starter_of_a_kind_seen_before_survives():
    """17 in 20 of them over all 29 looks; nearly all are pruned among rows that start alike."""
    pruned = {"mixed": 0, "alike": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        finals = [0.54, 0.535, 0.50, 0.505, 0.46, 0.465, 0.52, 0.525]  # fast, slow, fast, slow
        mixed = [make_row(v, x, rng, slower=3.0 if v % 2 else 1.0) for v, x in enumerate(finals)]
        alike = [make_row(v, x, rng) for v, x in enumerate(finals)]
        slow = make_row(99, 0.54, rng, slower=3.0)
        pruned["mixed"] += ever_pruned(slow, mixed, together=True)
        pruned["alike"] += ever_pruned(slow, alike, together=True)

    assert pruned["mixed"] <= 6
    assert pruned["alike"] >= 30


@given(NUMBERS)
def test_the_line_for_the_table_holds_the_numbers(seed):
    others = make_study(seed)
    row = make_row(9, 0.3, np.random.default_rng(seed), (12, 12, 0))

    verdict = judge(row, others, FOLDS)

    assert verdict.prune
    assert verdict.reason == (
        f"behind v{verdict.leader:03d} by {100 * verdict.behind:.1f} points at epoch 12 on folds "
        f"1, 2; could make up at most {100 * verdict.room:.1f}"
    )
    assert verdict.epochs == (12, 12)
    leader = next(other for other in others if other.variant == verdict.leader)
    by_hand = np.mean([leader.curves[fold][11] - row.curves[fold][11] for fold in (1, 2)])
    assert verdict.behind == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("done", "places"),
    [((12, 4, 0), "at epochs 12, 4 on folds 1, 2"), ((0, 0, 9), "at epoch 9 on fold 3")],
)
def test_the_line_names_every_cell_that_was_compared(done, places):
    verdict = judge(make_row(9, 0.3, np.random.default_rng(0), done), make_study(0), FOLDS)

    assert re.search(places, verdict.reason)


def test_noise_is_half_the_variance_of_paired_differences_when_many_rows_are_finished():
    others = make_study(0, 400)
    final = np.array([[row.curves[fold][-1] for fold in (1, 2, 3)] for row in others])
    pairs = final[::2] - final[1::2]
    by_pairs = np.sqrt(pairs.var(axis=1, ddof=1).mean() / FOLDS)

    verdict = judge(make_candidate(0, 400), others, FOLDS)

    assert verdict.noise == pytest.approx(by_pairs, rel=0.1)
    assert verdict.noise == pytest.approx(np.sqrt(2 / 3) * np.hypot(SEED_SD, 0.003), rel=0.05)


def test_rows_that_differ_by_noise_only_are_pruned_rarely():
    """1 row in 12 at most over all of its 89 looks; 200 of them, among 3 to 12 finished rows."""
    pruned = 0
    for seed in range(200):
        finished = MIN_FINISHED + seed % 10
        others = make_study(seed, finished, spread=0.0)
        pruned += ever_pruned(make_row(99, 0.5, np.random.default_rng([seed, 1])), others)

    assert pruned <= 16


def test_scores_that_are_missing_are_not_compared():
    others, row = make_study(0), make_row(9, 0.3, np.random.default_rng(0), (12, 0, 0))
    nothing = np.full(5, np.nan)

    same = dataclasses.replace(row, curves={**row.curves, 2: nothing})
    broken = dataclasses.replace(others[1], variant=77, curves={1: nothing, 2: nothing, 3: nothing})

    assert repr(judge(same, [*others, broken], FOLDS)) == repr(judge(row, others, FOLDS))
    assert not judge(dataclasses.replace(row, curves={1: nothing}), others, FOLDS).prune


@pytest.mark.parametrize("folds", [1, 2, 10])
def test_any_number_of_folds_gives_a_verdict(folds):
    rng = np.random.default_rng(0)
    others = [
        make_row(v, 0.5 + 0.03 * rng.standard_normal(), rng, (EPOCHS,) * folds) for v in range(8)
    ]
    hopeless = make_row(9, 0.25, rng, (15,) + (0,) * (folds - 1))

    assert judge(hopeless, others, folds).prune
    assert not judge(make_row(BASELINE, 0.5, rng, (15,)), others, folds).prune


def test_rows_without_any_noise_at_all_do_not_break_the_arithmetic():
    same = {fold: curve(0.5) for fold in (1, 2, 3)}
    others = [RowCurves(v, EPOCHS, same) for v in range(8)]
    young = {1: curve(0.5)[:24]}

    assert not judge(RowCurves(9, EPOCHS, young), others, FOLDS).prune
    assert judge(RowCurves(9, EPOCHS, {1: young[1] - 0.3}), others, FOLDS).prune


@pytest.mark.parametrize(("planned", "first"), [(8, 3), (30, 3), (65, 7)])
def test_no_row_is_judged_by_its_first_epochs(planned: int, first: int):
    rng = np.random.default_rng(3)
    finals = (0.5, 0.4, 0.45, 0.35, 0.48)
    others = [
        RowCurves(v, planned, {f: curve(final, epochs=planned) for f in (1, 2, 3)})
        for v, final in enumerate(finals)
    ]
    hopeless = 0.01 * rng.random(planned)
    looks = [
        judge(RowCurves(9, planned, {1: hopeless[:at]}), others, FOLDS).prune
        for at in range(1, first + 1)
    ]
    assert looks == [False] * (first - 1) + [True]


def test_folds_that_disagree_at_an_epoch_make_it_count_for_less():
    """In one of two studies the folds that are not compared jump at the epoch of comparison."""

    def room(jump: float) -> float:
        rng = np.random.default_rng(5)
        others = []
        for v in range(8):
            cells = {f: curve(0.4 + 0.02 * v) for f in (1, 2, 3)}
            for fold in (2, 3):
                cells[fold][4] += jump * rng.standard_normal()
            others.append(RowCurves(v, EPOCHS, cells))
        return judge(RowCurves(9, EPOCHS, {1: curve(0.45)[:5]}), others, FOLDS).room

    assert room(0.05) > 1.2 * room(0.0)
