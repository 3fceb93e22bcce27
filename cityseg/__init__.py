"""Street-scene segmentation on Cityscapes: data, UNet-ResNet, exact training and evaluation.

Knows nothing of Ray or Optuna; the package `study` builds on it.
"""

import os

# albumentations asks the network for a newer version when it is imported; no library of ours does.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
