"""How a device computes: precision, memory format, choice of kernels."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from cityseg.config import Config

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Precision:
    """Of the forward pass: bfloat16 by autocast, or float32."""

    device: str
    bfloat16: bool

    def autocast(self) -> AbstractContextManager[object]:
        """What the forward pass is to be run within."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16)


def precision_of(config: Config, device: torch.device) -> Precision:
    """As configured; auto is bfloat16 where the device computes in it."""
    wanted = config.train.precision
    return Precision(
        device.type, wanted == "bfloat16" or (wanted == "auto" and has_bfloat16(device))
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself: GPUs from Ampere on, CPUs since about 2021."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def place(model: Network, device: torch.device) -> Network:
    """The network on a device; on a GPU with the channels of a pixel side by side, as its
    convolutions in bfloat16 want them."""
    if device.type == "cuda":
        return model.to(device).to(memory_format=torch.channels_last)
    return model.to(device)


def choose_kernels(config: Config, device: torch.device) -> None:
    """On a GPU: the fastest convolutions by trial, or only deterministic kernels if so configured.

    Settings of the whole process.
    """
    if device.type != "cuda":
        return
    deterministic = config.train.deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
