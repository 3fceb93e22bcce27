"""Street-scene segmentation on Cityscapes: data, UNet-ResNet, exact training and evaluation.

Knows nothing of Ray or Optuna; the package `study` builds on it.
"""

import os

# albumentations asks the network for a newer version when it is imported; no library of ours does.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Large tensors of a CPU on large pages, where the system leaves that to the program: gradients and
# weights in bfloat16 are allocated anew in each step. torch reads this once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
