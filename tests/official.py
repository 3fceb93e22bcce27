"""The official evaluator as an oracle: cityscapesScripts' `evalPixelLevelSemanticLabeling`."""

import copy
import functools
import warnings
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np

from cityseg.data import Frame
from cityseg.labels import CLASS_NAMES
from cityseg.scoring import Scores

EXACT: Final = 1e-12

Verdict = tuple[dict[str, float], float]
"""IoU by class name, and the mean."""


@functools.cache
def evaluator() -> ModuleType:
    """The evaluator's module; its import reads no environment that the tests have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SyntaxWarning, module="cityscapesscripts")
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling

    return evalPixelLevelSemanticLabeling


def matched(frames: list[Frame], folder: Path) -> list[str]:
    """The file of each frame that the evaluator's matcher finds below a folder."""
    args = copy.copy(evaluator().args)
    args.predictionPath, args.predictionWalk = str(folder), None
    return [evaluator().getPrediction(args, str(frame.label)) for frame in frames]


def judge(frames: list[Frame], folder: Path) -> Verdict:
    """IoU by class name, and mean, as the official evaluator finds them."""
    args = copy.copy(evaluator().args)
    args.evalInstLevelScore = False  # NumPy 2.4 has no np.in1d
    args.JSONOutput = False
    args.quiet = True
    labels = [str(frame.label) for frame in frames]
    result = evaluator().evaluateImgLists(matched(frames, folder), labels, args)
    return result["classScores"], result["averageScoreClasses"]


def assert_same(ours: Scores, theirs: Verdict) -> None:
    iou, mean = theirs
    expected = np.array([iou[name] for name in CLASS_NAMES])
    np.testing.assert_allclose(np.array(list(ours.iou.values())), expected, rtol=0, atol=EXACT)
    np.testing.assert_allclose(ours.miou, mean, rtol=0, atol=EXACT)
