"""Memory: what one training takes, reckoned, and what would fit where it ran out.

torch is imported by what needs it: a study's driver is told of bad input before that has loaded.
"""

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import psutil

from cityseg.config import Config, Model
from cityseg.errors import TrainingError

if TYPE_CHECKING:
    import torch

TRAINING_BYTES: Final = 16
"""A parameter in float32 training: value, gradient and Adam's two moments."""
KEPT_BYTES: Final = 2
"""Of freed memory (`keep_freed`), a parameter, on a CPU: the whole then is above all peaks measured
with the paper's network, 5.1 to 5.3 GB at 64 x 128 and 7.5 at 512 x 1024."""
WEIGHT_BYTES: Final = 4
BASE_BYTES: Final = 1.2e9
"""Python, torch and one cell's data loading, resident; of a GPU, about what CUDA itself takes."""
ACTIVATION_BYTES: Final = 8e3
"""Of one input pixel, kept for the backward pass on a CPU; measured with the paper's network. One
that keeps more is given more, by as much."""
GPU_ACTIVATION_BYTES: Final = {"bfloat16": 1.7e3, "float32": 3.4e3}
"""The same on a GPU: 17.9 GB at batch 16 of 512 x 1024 in bfloat16 (benchmarks/README.md), and
twice that, reckoned, in float32."""

SIDE: Final = 32
"""Input sizes that are proposed are multiples of this, so that every stage halves evenly."""

LEAST_SCALE: Final = 0.25
"""Of the input's sides, below which another network is the better proposal."""


M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
"""As in the GNU C library's malloc.h."""


def keep_freed() -> None:
    """Have this process keep the memory that it frees: every step of a training wants it again.

    The GNU C library gives large blocks back at once, and the system then has to clear the next
    step's page by page: on a CPU a third of a step of the paper's network at 128 x 256. Kept, they
    are found again; in the main thread, and in others where all share one arena
    (`MALLOC_ARENA_MAX=1`). Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def parameters_of(config: Config) -> int:
    """Trainable values of the configuration's network; nothing is allocated."""
    return _parameters(_architecture(config.model))  # pyright: ignore[reportArgumentType] # a frozen section has a hash


def kept_bytes(config: Config) -> int:
    """What autograd keeps of a training batch of the configuration's network; computes nothing."""
    return _kept_bytes(_architecture(config.model))  # pyright: ignore[reportArgumentType] # likewise


def _architecture(settings: Model) -> Model:
    """The settings that its size depends on; for the rest, any."""
    return settings.model_copy(update={"weights": "none", "weights_sha256": None, "dropout": 0.0})


@functools.cache
def _parameters(settings: Model) -> int:
    import torch

    from cityseg.model import count_parameters, network

    with torch.device("meta"):
        return count_parameters(network(settings))


@functools.cache
def _kept_bytes(settings: Model) -> int:
    import torch

    from cityseg.model import network

    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that the key is not given out again
        return tensor

    with torch.device("meta"):
        model = network(settings)
        image = torch.empty(2, 3, 128, 256)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            for logits in model.supervised(image):
                logits.log_softmax(dim=1)
    weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)


def training_bytes(config: Config, gpu_precision: str | None = None) -> int:
    """What one training takes where it computes: on a CPU, or on a GPU in some precision."""
    height, width = config.data.input_size
    pixels = height * width * max(config.train.batch_size, config.evaluate.batch_size)
    return int(_fixed(config, gpu_precision) + _a_pixel(config, gpu_precision) * pixels)


def _fixed(config: Config, gpu_precision: str | None) -> float:
    a_parameter = TRAINING_BYTES + (0 if gpu_precision else KEPT_BYTES)
    return BASE_BYTES + a_parameter * parameters_of(config) + average_bytes(config)


def average_bytes(config: Config) -> int:
    """What the average of the weights takes beside them, in memory and in a saved state."""
    return WEIGHT_BYTES * parameters_of(config) if config.train.ema_decay else 0


def _a_pixel(config: Config, gpu_precision: str | None) -> float:
    share = max(1.0, kept_bytes(config) / kept_bytes(Config()))
    return share * (GPU_ACTIVATION_BYTES[gpu_precision] if gpu_precision else ACTIVATION_BYTES)


def would_fit(config: Config, there_bytes: int, gpu_precision: str | None = None) -> str:
    """Settings that would fit into some memory, for a configuration that did not.

    The estimate may be off, and others may have taken the memory: so no more than half of either
    batch size is ever proposed, or of the larger one's pixels.
    """
    height, width = config.data.input_size
    sizes = config.train.batch_size, config.evaluate.batch_size
    batch = max(sizes)
    pixels = (there_bytes - _fixed(config, gpu_precision)) / _a_pixel(config, gpu_precision)
    fitting = max(0, min(int(pixels // (height * width)), batch // 2))
    scale = math.sqrt(min(pixels / (height * width * batch), 0.5)) if pixels > 0 else 0
    sides = [int(side * scale) // SIDE * SIDE for side in (height, width)]
    train, val = (max(1, min(fitting, size // 2)) for size in sizes)
    proposals = [f"train.batch_size={train} and evaluate.batch_size={val}"] if fitting else []
    proposals += [f"data.input_size=[{sides[0]},{sides[1]}]"] if scale >= LEAST_SCALE else []
    return " or ".join(proposals) or "a smaller model.encoder or model.decoder_width"


def host_bytes() -> int:
    """Memory of this machine that is free."""
    return psutil.virtual_memory().available


def ran_out(config: Config, there_bytes: int, where: str, gpu_precision: str | None) -> str:
    """One line on a training that ran out of memory, with the settings that would fit."""
    height, width = config.data.input_size
    train, val = config.train.batch_size, config.evaluate.batch_size
    need = training_bytes(config, gpu_precision)
    return (
        f"out of memory on {where}: train.batch_size={train} and evaluate.batch_size={val} at "
        f"data.input_size=[{height},{width}] take about {need / 1e9:.1f} GB, and there are "
        f"{there_bytes / 1e9:.1f} GB; would fit: {would_fit(config, there_bytes, gpu_precision)}"
    )


@contextlib.contextmanager
def explained(config: Config, device: "torch.device") -> Iterator[None]:
    """Tell what would fit, if memory runs out within a training.

    Raises:
        TrainingError: instead of Python's and torch's errors.
    """

    def line(of_gpu: bool) -> str:
        if not of_gpu:
            return ran_out(config, host_bytes(), "the host", None)
        precision = "float32" if config.train.precision == "float32" else "bfloat16"
        return ran_out(config, _device_bytes(config, device), f"the GPU ({device})", precision)

    with _told(line):
        yield


@contextlib.contextmanager
def explained_scoring(device: "torch.device") -> Iterator[None]:
    """Tell what takes less, if memory runs out where a trained network is used.

    Raises:
        TrainingError: instead of Python's and torch's errors.
    """
    less = "set inference.window=[512,1024] or evaluate.batch_size=1"
    with _told(lambda of_gpu: f"out of memory on {device if of_gpu else 'the host'}: {less}"):
        yield


@contextlib.contextmanager
def _told(line: Callable[[bool], str]) -> Iterator[None]:
    """Memory that runs out within, a GPU's or the host's, is told by `line` of which it is."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise TrainingError(line(True)) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(line(False)) from None


def _device_bytes(config: Config, device: "torch.device") -> int:
    """Of a GPU, what this process holds and what is free; no more than its share."""
    import torch

    if device.type != "cuda" or not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info(device)
    ours = free + torch.cuda.memory_reserved(device)
    return min(ours, int(total * config.resources.gpus_per_trial))
