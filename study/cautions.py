"""Where an interval's 95 %, or a test's 5 %, is not to be trusted: said beside it.

The shares below are those of benchmarks/coverage.md, of simulated studies whose truth was known;
tests hold them to its record.
"""

from dataclasses import dataclass
from typing import Final, Literal

TRUSTED: Final = 0.93
"""Share of simulated studies in which a 95 % interval must have held the truth to be trusted."""

Split = Literal["frames", "cities"]
"""What folds are made of; those that were given count as of frames."""


@dataclass(frozen=True)
class Held:
    """In what share of simulated studies an interval held the truth, 0-1."""

    least: float
    """Of the settings that a study cannot know of itself; for folds, training sets matter much."""
    most: float
    """Training sets do not matter."""


@dataclass(frozen=True)
class Rejected:
    """What share of simulated rows, equal to the base one, was told from it at 5 %, 0-1."""

    usual: float
    """Training sets matter as they usually do."""
    most: float
    """They matter much, which a study cannot know of itself."""


BY_FOLDS: Final[dict[Split, dict[int, Held]]] = {
    "frames": {3: Held(0.92, 0.99), 5: Held(0.76, 0.99), 10: Held(0.51, 0.99)},
    "cities": {3: Held(0.96, 0.98), 5: Held(0.92, 0.98), 10: Held(0.87, 0.95)},
}
"""The corrected t interval of the mean, by the number of folds."""
TOLERATED: Final = 0.08
"""Share of rows, equal to the base one, that may be told apart by a test at 5 %: 100 studies of
three rows say no more."""
REJECTED: Final[dict[Split, dict[int, Rejected]]] = {
    "frames": {3: Rejected(0.05, 0.06), 5: Rejected(0.05, 0.16), 10: Rejected(0.17, 0.52)},
    "cities": {3: Rejected(0.02, 0.05), 5: Rejected(0.03, 0.18), 10: Rejected(0.08, 0.38)},
}
"""The same where both tests reject, by the number of folds."""

OVER_FRAMES: Final = {10: 0.71}
"""The bootstrap over frames, in folds of whole cities that are too few to be drawn, by the number
of folds. In fewer folds of Cityscapes' 18 cities these are drawn, and the interval is right."""


def of_folds(folds: int, grouping: str) -> list[str]:
    """A sentence on the corrected t interval of a mean; none where its 95 % hold."""
    known = BY_FOLDS[_split(grouping)]
    number = _simulated(folds)
    held = known[number]
    if held.least >= TRUSTED:
        return []
    return [
        f"The interval over folds is not sure to hold in 95 %: in simulated studies of {number}"
        f" folds by {_split(grouping)} it did in"
        f" {_per_cent(held.most)}, and in {_per_cent(held.least)} where much depends on which"
        " frames are trained on, as folds that share them cannot tell."
    ]


def of_frames(folds: int, grouping: str) -> list[str]:
    """A sentence on intervals over frames where folds are of few whole cities each; else none."""
    number = min(OVER_FRAMES)
    if _split(grouping) == "frames" or _simulated(folds) < number:
        return []
    return [
        f"In simulated studies of {number} folds of whole cities they held in"
        f" {_per_cent(OVER_FRAMES[number])}: a class that a fold lacks scores 0 in it where it is"
        " predicted."
    ]


def of_tests(folds: int, grouping: str) -> list[str]:
    """A sentence on the comparison of rows; none where its 5 % hold."""
    known = REJECTED[_split(grouping)]
    number = _simulated(folds)
    rejected = known[number]
    if rejected.most <= TOLERATED:
        return []
    return [
        f"A difference that is shown may be none: in simulated studies of {number} folds by"
        f" {_split(grouping)}, {_per_cent(rejected.usual)} of rows as good as the base one were"
        f" told from it at 5 %, and {_per_cent(rejected.most)} where much depends on which frames"
        " are trained on, as folds that share most of them agree with each other."
    ]


def _split(grouping: str) -> Split:
    return "cities" if grouping == "cities" else "frames"


def _simulated(folds: int) -> int:
    """The simulated number of folds that stands for this one: the next larger, or the largest."""
    known = BY_FOLDS["frames"]
    return min((one for one in known if one >= folds), default=max(known))


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"
