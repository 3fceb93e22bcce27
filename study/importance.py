"""Which settings matter: hyperparameter importance over the finished rows, by Optuna's evaluators.

fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014) fits a forest to the rows' scores and splits the
variance of what it predicts over the whole space; PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI
2023) asks which settings tell the best tenth of the rows from all. Optuna is imported only when
there is something to ask it, and the rest of the analysis does without.
"""

import importlib.util
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float64

from study.analysis import VariantTable
from study.space import Choices, Range, value_of

if TYPE_CHECKING:
    import optuna

TREES: Final = 64
"""Optuna's own number."""
MOST_LEVELS: Final = 8
"""Depth of the trees. Optuna's own, 64, takes 26 s for 1,000 rows and gives the same two digits."""
LEAST_ROWS: Final = 4
"""Fewer finished rows tell nothing at all."""
ROWS_A_SETTING: Final = 10
"""Finished rows for every setting, below which the shares are said to be too uncertain."""
FOLDS: Final = 5
"""Of the rows, by which the forest's predictions are judged."""
TOP_SHARE: Final = 0.1
"""Of the rows, that PED-ANOVA tells from all: Optuna's own."""
LEAST_TOP_ROWS: Final = 5
"""Rows in that share, as Optuna's documentation asks for; with fewer PED-ANOVA is left out."""
LEAST_PREDICTED: Final = 0.5
"""Share of the variance of left-out rows that the forest must predict to be believed."""
WIDE: Final = 10
"""Ratio of highest to lowest value from which a setting given by hand is taken by its logarithm."""


@dataclass(frozen=True)
class Importance:
    """Shares of each setting, by its dotted key, the largest first."""

    rows: int
    """Finished rows that this rests on."""
    shares: Mapping[str, float]
    """fANOVA: of the variance of the score over the space, what the setting explains alone, 0-1.
    What is missing to 1 is of several settings together. 0 for all if the scores are equal."""
    top_shares: Mapping[str, float]
    """PED-ANOVA: of what tells the best tenth of the rows from all; sum to 1. Empty for fewer than
    50 rows."""
    predicted: float
    """Share of the scores' variance that the forest predicts for rows that it has not seen, in
    5-fold cross-validation; below 0 if the mean of the rows predicts better. NaN for equal
    scores."""
    warning: str
    """Why the shares are not to be relied on; empty if there is no reason."""

    @property
    def note(self) -> str:
        """What must be known to believe the shares, in words."""
        words = f"fANOVA over {self.rows} finished rows"
        return f"{words}. {self.warning}" if self.warning else f"{words}."


def measure_importance(table: VariantTable) -> tuple[Importance | None, str]:
    """Importance of all settings in which the finished rows differ, by the study's objective.

    Returns None, and why in one line, if there is nothing to be said; the line is empty where
    nobody would ask: no setting differs, or one row alone is finished.
    """
    settings, scores = _finished(table)
    if not settings or len(scores) < 2:
        return None, ""
    if len(scores) < LEAST_ROWS:
        wanted = f"{LEAST_ROWS} at least, better {ROWS_A_SETTING * len(settings)}"
        return None, f"no importance of settings: {len(scores)} finished rows, it takes {wanted}"
    if importlib.util.find_spec("optuna") is None:
        return None, "no importance of settings: it is Optuna's, which is not installed"
    seed = table.variant.record.config.seed % 2**32
    return _measure(settings, scores, seed), ""


@dataclass(frozen=True)
class _Setting:
    """One setting over the finished rows."""

    key: str
    values: tuple[Any, ...]
    """Numbers, their logarithms where the space is logarithmic; or words for the rest."""
    ends: tuple[float, float] | None
    """Of the space, in the values' unit; None for words."""


def _finished(table: VariantTable) -> tuple[list[_Setting], Float64[np.ndarray, " n"]]:
    """Settings in which the finished rows differ, and the rows' scores."""
    scores = {row.number: row.spread(table.objective).mean for row in table.rows}
    rows = [row for row in table.rows if not math.isnan(scores[row.number])]
    rows.sort(key=lambda row: row.number)
    record = table.variant.record
    settings = []
    for key in table.varied:
        usual = value_of(record.config, key)
        values = [row.parameters.get(key, usual) for row in rows]
        if len({json.dumps(value) for value in values}) > 1:
            settings.append(_setting(key, values, record.search.space.get(key)))
    return settings, np.array([scores[row.number] for row in rows])


def _setting(key: str, values: Sequence[Any], dimension: Range | Choices | None) -> _Setting:
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return _Setting(key, tuple(json.dumps(value) for value in values), None)
    low, high = min(values), max(values)
    is_log = low > 0 and high / low >= WIDE
    if isinstance(dimension, Range):
        low, high, is_log = min(low, dimension.low), max(high, dimension.high), dimension.log
    scale = math.log10 if is_log and low > 0 else float
    return _Setting(key, tuple(scale(v) for v in values), (scale(low), scale(high)))


def _measure(
    settings: Sequence[_Setting], scores: Float64[np.ndarray, " n"], seed: int
) -> Importance:
    predicted = _predicted(settings, scores, seed)
    shares, top_shares = _ask_optuna(settings, scores, seed)
    return Importance(
        rows=len(scores),
        shares=_in_order(shares),
        top_shares=_in_order(top_shares),
        predicted=predicted,
        warning=_warning(len(settings), len(scores), predicted),
    )


def _ask_optuna(
    settings: Sequence[_Setting], scores: Float64[np.ndarray, " n"], seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares by fANOVA and by PED-ANOVA."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    if np.ptp(scores) == 0:  # a forest of equal scores has no variance to split
        return {setting.key: 0.0 for setting in settings}, {}
    study = _optuna_study(settings, scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        forest = FanovaImportanceEvaluator(n_trees=TREES, max_depth=MOST_LEVELS, seed=seed)
        shares, top = forest.evaluate(study), {}
        if len(scores) >= LEAST_TOP_ROWS / TOP_SHARE:
            top = PedAnovaImportanceEvaluator().evaluate(study)
    total = sum(top.values())
    return shares, {key: share / total for key, share in top.items() if total > 0}


def _optuna_study(
    settings: Sequence[_Setting], scores: Float64[np.ndarray, " n"]
) -> "optuna.Study":
    """The finished rows as Optuna knows them, in memory."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    forms = {
        setting.key: FloatDistribution(*setting.ends)
        if setting.ends
        else CategoricalDistribution(sorted(set(setting.values)))
        for setting in settings
    }
    study = optuna.create_study(direction="maximize")
    rows = zip(*(setting.values for setting in settings), strict=True)
    study.add_trials(
        optuna.trial.create_trial(
            params=dict(zip(forms, row, strict=True)), distributions=dict(forms), value=float(score)
        )
        for row, score in zip(rows, scores, strict=True)
    )
    return study


def _predicted(settings: Sequence[_Setting], scores: Float64[np.ndarray, " n"], seed: int) -> float:
    """Share of the variance that a forest such as fANOVA's predicts for rows left out."""
    from sklearn.ensemble import RandomForestRegressor  # a third of a second, in searches only
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict

    if np.ptp(scores) == 0:
        return math.nan
    columns = [
        np.array(setting.values)[:, None]
        if setting.ends
        else np.array([[value == choice for choice in sorted(set(setting.values))]
                       for value in setting.values], np.float64)
        for setting in settings
    ]  # fmt: skip
    forest = RandomForestRegressor(TREES, max_depth=MOST_LEVELS, random_state=seed)
    folds = KFold(min(FOLDS, len(scores)), shuffle=True, random_state=seed)
    left_out = cross_val_predict(forest, np.hstack(columns), scores, cv=folds)
    return float(r2_score(scores, left_out))


def _in_order(shares: Mapping[str, float]) -> dict[str, float]:
    """The largest first; of equals by the key."""
    return {key: float(shares[key]) for key in sorted(shares, key=lambda key: (-shares[key], key))}


def _warning(settings: int, rows: int, predicted: float) -> str:
    reasons = []
    if rows < ROWS_A_SETTING * settings:
        reasons.append(
            f"{rows} rows for {settings} settings are fewer than {ROWS_A_SETTING} a setting"
        )
    if math.isnan(predicted):
        reasons.append("all scores are equal")
    elif predicted < LEAST_PREDICTED:
        reasons.append(
            f"the forest predicts {max(predicted, 0):.0%} of the variance of rows that it has not"
            f" seen, less than {LEAST_PREDICTED:.0%}"
        )
    return f"Not to be relied on: {'; '.join(reasons)}." if reasons else ""
