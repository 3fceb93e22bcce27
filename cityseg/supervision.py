"""Heads that exist for training alone: more places at which the network is told what is right.

They are no part of the forward pass and cost nothing there; their weights are in the state dict,
and so in the files of weights. Costs are of the forward pass of a training step, beside the
paper's.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead


class Supervisors(nn.Module):
    """An auxiliary head on the encoder, and heads on the decoder's stages but the last; or none.

    The auxiliary one is torchvision's FCNHead on the encoder's last feature but one (1/16 in a
    ResNet). Source: Zhao et al. 2017, Pyramid Scene Parsing Network, section 3.3, whose weight for
    it is 0.4. Cost: +2.36 M parameters, +9.7 GFLOP.

    Those on the decoder are 1x1 convolutions. Source: Lee et al. 2015, Deeply-Supervised Nets; the
    weight halves with every coarser stage, as in nnU-Net (Isensee et al. 2021).
    Cost: +0.03 M parameters, +0.6 GFLOP.

    Args:
        encoder_channels: of the feature under the auxiliary head.
        decoder_channels: of the decoder's stages but the last, coarsest first.
        classes: number of logits.
        auxiliary: weight of the auxiliary loss; 0 is no head.
        deep: weight of the loss at the last stage but one; 0 is no heads.
    """

    def __init__(
        self,
        encoder_channels: int,
        decoder_channels: tuple[int, ...],
        classes: int,
        auxiliary: float,
        deep: float,
    ):
        super().__init__()
        supervised = decoder_channels if deep else ()
        self.auxiliary = nn.ModuleList([FCNHead(encoder_channels, classes)] if auxiliary else [])
        self.deep = nn.ModuleList(nn.Conv2d(c, classes, kernel_size=1) for c in supervised)
        halvings = reversed(range(len(supervised)))
        self.weights = (*([auxiliary] if auxiliary else []), *(deep / 2**n for n in halvings))

    def forward(
        self, features: list[Float[Tensor, "b _ _ _"]], outputs: list[Float[Tensor, "b _ _ _"]]
    ) -> list[Float[Tensor, "b k _ _"]]:
        """Logits at the resolutions of encoder feature and decoder outputs, in `weights`' order.

        Args:
            features: the encoder's, finest first.
            outputs: the decoder's, coarsest first.
        """
        return [
            *(head(features[-2]) for head in self.auxiliary),
            *(head(x) for head, x in zip(self.deep, outputs, strict=False)),
        ]
