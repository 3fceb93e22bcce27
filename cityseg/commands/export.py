"""`cityseg export`: a network for other programs."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Export:
    """Write a network as ONNX or as a torch.export program, and compare it with the original."""

    weights: Path = field(kw_only=True)
    """Weights of ours (best.safetensors)."""
    out: Path = field(kw_only=True)
    """The file: NAME.onnx or NAME.pt2. It takes RGB of 0-255, uint8[batch, 3, height, width] of any
    size from 64 px, and gives float32 logits of the 19 train ids at that size."""

    def run(self) -> int:
        """Export, compare at several sizes, and print by how much they differ."""
        from cityseg.checkpoint import load_network
        from cityseg.export import export

        model, _ = load_network(self.weights)
        found = export(model, self.out)
        table = Table("batch", "height x width", title=str(self.out))
        for heading in ("largest difference", "pixels of another class"):
            table.add_column(heading, justify="right")
        for one in found:
            batch, height, width = one.size
            table.add_row(
                str(batch), f"{height} x {width}", f"{one.difference:.1e}", str(one.other_classes)
            )
        Console().print(table)
        print(f"{self.out}, {self.out.stat().st_size / 1e6:.1f} MB; differences are shares of the "
              "largest logit")  # fmt: skip
        return 0
