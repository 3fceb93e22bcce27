"""`cityseg predict` and `cityseg submit`: networks on pictures without labels."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from cityseg.data import index_images, require_root
from cityseg.errors import InputError, counted

if TYPE_CHECKING:
    from cityseg.ensemble import Ensemble


@dataclass(frozen=True)
class Predict:
    """Segment a picture, or all PNGs and JPEGs of a folder."""

    image: tyro.conf.Positional[Path]
    """The picture or folder."""
    settings: tyro.conf.Positional[tuple[str, ...]] = ()
    """KEY=VALUE settings of inference or resources over those that the weights were trained with,
    such as inference.flip=true."""
    out: Path = field(kw_only=True)
    """Folder to write into: labelIds/ (PNGs of label ids), color/ and overlay/."""
    weights: Path | None = None
    """Weights of ours (best.safetensors)."""
    ensemble: Path | None = None
    """A row of a study (results/NAME/v000): the mean of its folds' networks."""

    def run(self) -> int:
        """Segment one picture after the other, and say where they are."""
        from cityseg.memory import explained_scoring
        from cityseg.predict import Outputs, find_pictures, segment

        outputs = Outputs(self.out)
        pictures = find_pictures(self.image, outputs)
        networks = _load(self.weights, self.ensemble, self.settings, fused=False)
        for name, picture in pictures.items():
            with explained_scoring(networks.device):
                segment(networks.predict, picture, name, outputs)
            print(outputs.label_ids / f"{name}_labelIds.png", flush=True)
        return 0


@dataclass(frozen=True)
class Submit:
    """Write the zip of label-id PNGs that the Cityscapes server scores."""

    settings: tyro.conf.Positional[tuple[str, ...]] = ()
    """KEY=VALUE settings of inference or resources over those that the weights were trained with,
    such as inference.flip=true."""
    out: Path = field(kw_only=True)
    """The zip to write."""
    weights: Path | None = None
    """Weights of ours (best.safetensors)."""
    ensemble: Path | None = None
    """A row of a study (results/NAME/v000): the mean of its folds' networks."""
    data: Path | None = None
    """Root of the data set; by default $CITYSCAPES_DATASET."""
    split: Literal["val", "test"] = "test"
    """Whose frames are segmented; labels are not read."""

    def run(self) -> int:
        """Segment every frame into the zip, and say what is in it."""
        from cityseg.memory import explained_scoring
        from cityseg.submission import SERVER_SIZE, write

        images = index_images(require_root(self.data), self.split)
        networks = _load(self.weights, self.ensemble, self.settings)
        with explained_scoring(networks.device):
            sizes = write(self.out, images, networks.predict)
        size = self.out.stat().st_size / 1e6
        print(f"{counted(len(images), 'frame')} in {self.out}, {size:.1f} MB")
        if sizes != {SERVER_SIZE}:
            found = ", ".join("{1}x{0}".format(*size) for size in sorted(sizes))
            print(
                f"warning: frames are {found}; the server takes {SERVER_SIZE[1]}x{SERVER_SIZE[0]}",
                file=sys.stderr,
            )
        return 0


def _load(
    weights: Path | None, ensemble: Path | None, settings: tuple[str, ...], fused: bool = True
) -> "Ensemble":
    from cityseg.ensemble import find_members, load

    if (weights is None) == (ensemble is None):
        raise InputError("networks", expected="either --weights or --ensemble")
    if ensemble is not None:
        return load(find_members(ensemble), settings, fused)
    assert weights is not None
    return load({weights.stem: weights}, settings, fused)
