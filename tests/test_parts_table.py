"""What the parts are said to cost is what they cost."""

import inspect

import pytest

from benchmarks.parts import BEGIN, PAGE, PARTS, Cost, costs, written
from cityseg.attention import AttentionGate, CBAMSkip, SqueezeExcitedSkip
from cityseg.blocks import DeepBlock
from cityseg.context import AtrousPyramid, PyramidPooling
from cityseg.fusion import FeaturePyramid
from cityseg.model import build_vanilla
from cityseg.normalisation import frozen, group_norm
from cityseg.supervision import Supervisors

DOCUMENTED = {
    "model.skip: attention": AttentionGate,
    "model.skip: squeeze": SqueezeExcitedSkip,
    "model.skip: cbam": CBAMSkip,
    "model.context: ppm": PyramidPooling,
    "model.context: aspp": AtrousPyramid,
    "model.decoder_blocks: 2": DeepBlock,
    "model.fusion: pyramid": FeaturePyramid,
    "model.auxiliary: 0.4": Supervisors,
    "model.deep_supervision: 0.5": Supervisors,
    "model.normalisation: group": group_norm,
    "model.encoder_normalisation: frozen": frozen,
    "model.encoder: vanilla": build_vanilla,
}


@pytest.fixture(scope="module")
def counted() -> dict[str, Cost]:
    return costs()


def test_the_papers_network_costs_what_was_counted_before(counted: dict[str, Cost]):
    paper = counted["the paper's"]
    assert paper.parameters == 222_985_043
    assert paper.flop / 1e9 == pytest.approx(664, abs=0.5)
    assert paper.flop == paper.supervised_flop


def test_a_residual_block_costs_two_convolutions_a_stage_by_hand(counted: dict[str, Cost]):
    """9 c^2 weights each, and two norms, at 1/16 to 1/2 of 512x1024."""
    more = counted["model.decoder_blocks: 2"], counted["the paper's"]
    stages = {1024: 32 * 64, 512: 64 * 128, 256: 128 * 256, 64: 256 * 512}
    assert more[0].parameters - more[1].parameters == sum(18 * c * c + 4 * c for c in stages)
    assert more[0].flop - more[1].flop == sum(2 * 18 * c * c * px for c, px in stages.items())


def test_every_docstring_has_its_parts_cost(counted: dict[str, Cost]):
    paper = counted["the paper's"]
    for name, part in DOCUMENTED.items():
        words = " ".join((inspect.getdoc(part) or "").split())
        assert counted[name].text(paper) in words, name


def test_the_page_has_the_table_of_now(counted: dict[str, Cost]):
    page = PAGE.read_text(encoding="utf-8")
    assert BEGIN in page and all(f"`{name}`" in page for name in [*PARTS][1:])
    assert written(page, counted) == page


def test_writing_the_table_leaves_the_rest_of_the_page(counted: dict[str, Cost]):
    page = PAGE.read_text(encoding="utf-8")
    fewer = written(page, {"the paper's": counted["the paper's"]})
    assert len(fewer) < len(page) and written(fewer, counted) == page
