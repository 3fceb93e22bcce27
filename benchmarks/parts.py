"""What each part of the network costs: parameters and FLOP, counted, not measured.

    python -m benchmarks.parts

prints the table and writes it into `docs/parts.md`. The networks are laid out without memory, so
that the counts need neither a GPU nor time.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from cityseg.config import Model
from cityseg.errors import user_command
from cityseg.model import count_parameters, network

SIZE: Final = (512, 1024)
"""Of the input, in pixels."""
PAGE: Final = Path(__file__).parent.parent / "docs" / "parts.md"
BEGIN: Final = "<!-- counts: python -m benchmarks.parts -->\n"
END: Final = "<!-- end of counts -->\n"

PARTS: Final[dict[str, dict[str, Any]]] = {
    "the paper's": {},
    "model.skip: attention": {"skip": "attention"},
    "model.skip: squeeze": {"skip": "squeeze"},
    "model.skip: cbam": {"skip": "cbam"},
    "model.context: ppm": {"context": "ppm"},
    "model.context: aspp": {"context": "aspp"},
    "model.decoder_blocks: 2": {"decoder_blocks": 2},
    "model.decoder_blocks: 3": {"decoder_blocks": 3},
    "model.fusion: pyramid": {"fusion": "pyramid"},
    "model.auxiliary: 0.4": {"auxiliary": 0.4},
    "model.deep_supervision: 0.5": {"deep_supervision": 0.5},
    "model.normalisation: group": {"normalisation": "group"},
    "model.encoder_normalisation: frozen": {
        "encoder_normalisation": "frozen", "weights": "IMAGENET1K_V1",
    },
    **{f"model.encoder: resnet{n}": {"encoder": f"resnet{n}"} for n in (18, 34, 101, 152)},
    "model.encoder: vanilla": {"encoder": "vanilla"},
}  # fmt: skip
"""Settings of a network, each beside the paper's defaults."""


@dataclass(frozen=True)
class Cost:
    """Of one network at `SIZE`, batch 1; a multiply-add is two FLOP."""

    parameters: int
    """That are trained, heads for training alone included."""
    flop: int
    """Of a forward pass."""
    supervised_flop: int
    """Of the forward pass of a training step, with all heads."""

    def text(self, paper: "Cost") -> str:
        """What it has more (or less) than the paper's, as the docstrings say it."""
        millions, giga = (
            (self.parameters - paper.parameters) / 1e6,
            (self.supervised_flop - paper.supervised_flop) / 1e9,
        )
        return f"{millions:+.2f} M parameters, {giga:+.1f} GFLOP"


def cost_of(settings: Mapping[str, Any]) -> Cost:
    """Count a network."""
    with torch.device("meta"):
        model = network(Model.model_validate({"weights": "none", **settings})).eval()
        flop = _flop(model)
        supervised = _flop(model.supervised) if len(model.supervision) > 1 else flop
    return Cost(count_parameters(model), flop, supervised)


@torch.no_grad()
def _flop(call: Callable[[torch.Tensor], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call(torch.empty(1, 3, *SIZE))
    return counter.get_total_flops()


def costs() -> dict[str, Cost]:
    """Of all parts."""
    return {name: cost_of(settings) for name, settings in PARTS.items()}


def table(rows: Mapping[str, Cost]) -> str:
    """As Markdown; differences are to the first row."""
    paper = next(iter(rows.values()))
    lines = [
        "| | parameters, M | GFLOP, forward | GFLOP, in training | to the paper's |",
        "|---|---|---|---|---|",
    ]
    for name, cost in rows.items():
        more = "" if cost is paper else cost.text(paper)
        lines.append(
            f"| `{name}` | {cost.parameters / 1e6:.2f} | {cost.flop / 1e9:.1f} "
            f"| {cost.supervised_flop / 1e9:.1f} | {more} |".replace("`the paper's`", "the paper's")
        )
    return "\n".join(lines) + "\n"


def written(page: str, rows: Mapping[str, Cost]) -> str:
    """The page with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


@user_command
def main() -> int:
    """Count, print, and write."""
    rows = costs()
    print(table(rows), end="")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
