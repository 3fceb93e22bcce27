"""The typed configuration: every setting, its range and its one default, and its one loader.

The defaults are the paper's recipe. A YAML file and `KEY=VALUE` words override them; whatever is
unknown or out of range is refused by name.
"""

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cityseg import plainyaml
from cityseg.errors import InputError

STUDY_SECTION: Final = "search"
"""Top-level section of a configuration file that is a study's alone: which rows it is to try."""

NO_BATCH: Final = ("group", "frozen")
"""Normalisations whose statistics are not the batch's."""
MOST_BYTES: Final = 16 * 2**20
"""Of a file of settings; a study's record with thousands of rows is one."""
PROBLEMS_SHOWN: Final = 20
LONGEST_SHOWN: Final = 100
"""Characters of a value, or of an unknown key, in a message."""
NO_NUMBER: Final = {"resources": True, "data": {"cache"}, "evaluate": {"full_every"}}
"""Settings that decide what a result costs, or when it is known, but not what it is."""

Probability = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=32, le=16384)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=100)]
Factor = Annotated[float, Field(ge=0.1, le=10)]


def _is_a_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("resources.cache_dir: got a path with a zero byte, expected one without")
    return path


class Section(BaseModel):
    """A group of settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


Settings = TypeVar("Settings", bound=Section)


def _refuse_idle(section: Section, names: tuple[str, ...], because: str) -> None:
    """Refuse settings that another one, `because`, puts out of use, unless they have their default.

    Else two rows of a study could differ in its table alone.
    """
    group = because.partition("=")[0].rpartition(".")[0]
    for name in names:
        default = type(section).model_fields[name].default
        if getattr(section, name) != default:
            usual = "out" if isinstance(default, Section) else f"at {default}"
            raise ValueError(f"{group}.{name} does nothing with {because}: leave it {usual}")


class Crop(Section):
    """A piece of a frame at full resolution, at the input size. The defaults are mmsegmentation's
    for Cityscapes."""

    scale: tuple[Factor, Factor] = (0.5, 2.0)
    """Random scale of the frame, from and to, before the piece is cut: 0.5 shows twice as much."""
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Another piece is tried, ten times at most, while one class has this share of the labelled
    pixels or more; 1 takes the first."""
    class_uniform: Probability = 0.0
    """Share of the samples for which a class is drawn first, each as likely as another, then a
    frame of the training part that holds it, then a piece of that which does (Zhu et al. 2019)."""

    @model_validator(mode="after")
    def _scales_ascend(self) -> "Crop":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"data.augment.crop.scale is (from, to), got {list(self.scale)}")
        return self


class Distortion(Section):
    """Photometric distortion, as SSD's (Liu et al. 2016) and mmsegmentation's; each of the four
    happens to every second sample. The defaults are mmsegmentation's."""

    brightness: Annotated[float, Field(ge=0, le=1)] = 0.125
    """Added to all channels: up to this share of 255, up or down (mmsegmentation's 32)."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """All channels times 1 - contrast to 1 + contrast."""
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The saturation times 1 - saturation to 1 + saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest shift of the hue, as a share of the colour circle (mmsegmentation's 18 of 180)."""


class Augment(Section):
    """Random changes to a training sample. The defaults are the paper's, in its order.

    The paper names the steps without numbers for the colours: those are albumentations' defaults.
    """

    view: Literal["frame", "crop"] = "frame"
    """What the network is shown. frame: all of it, as the paper, with `scale`. crop: a piece at
    full resolution, with `crop`. Validation sees whole frames in any case."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Random scale: a factor is drawn from 1 - scale to 1 + scale, then the frame is padded to its
    source size (with label 255) and resized to the input size, so factors above 1 change nothing
    but the resampling. For whole frames."""
    crop: Crop = Crop()
    flip: Probability = 0.5
    """Probability of a horizontal flip."""
    colour: Literal["jitter", "distortion"] = "jitter"
    """jitter: the paper's colour jitter, with the five settings below. distortion: photometric
    distortion, with `distortion`."""
    distortion: Distortion = Distortion()
    jitter: Probability = 0.5
    """Probability of the colour jitter."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.2
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.2
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.5
    """Largest shift of the hue, as a share of the colour circle."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Augment":
        frame = self.view == "frame"
        _refuse_idle(self, ("crop",) if frame else ("scale",), f"data.augment.view={self.view}")
        jitter = ("jitter", "brightness", "contrast", "saturation", "hue")
        idle = ("distortion",) if self.colour == "jitter" else jitter
        _refuse_idle(self, idle, f"data.augment.colour={self.colour}")
        return self


class Data(Section):
    """What a sample is."""

    input_size: tuple[Pixels, Pixels] = (512, 1024)
    """Height and width, in pixels, of what the network sees; the low resolution of the scores."""
    augment: Augment = Augment()
    cache: Literal["disk", "none"] = "disk"
    """disk: frames are decoded once, into files on a local disk (4 bytes a pixel: 25 GB for
    Cityscapes) that all trainings of a machine share. none: PNG files are decoded for every sample.
    Samples are the same."""


class Model(Section):
    """The network. Paper, section 1.1; its future work. What each part costs: docs/parts.md."""

    encoder: Literal["vanilla", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = (
        "resnet50"
    )
    """vanilla: the UNet of Ronneberger et al. 2015, from scratch, without a pretrained encoder."""
    weights: str = "IMAGENET1K_V1"
    """The encoder's first weights: torchvision's name (IMAGENET1K_V1, IMAGENET1K_V2), `none`, or
    the path of a file (.pth state dict or .safetensors), which wants `weights_sha256`."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Checksum of the weights file; refused if it differs."""
    decoder_width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Factor on the channels of bottleneck, decoder and head (and of the vanilla encoder); 1 is the
    paper's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout2d at the end of each bottleneck ConvBlock; 0 is off."""
    skip: Literal["plain", "attention", "squeeze", "cbam"] = "plain"
    """What encoder features pass through before they are concatenated. attention: gates opened by
    the coarser feature (Oktay et al. 2018). squeeze: squeeze-and-excitation. cbam: attention over
    channels, then places (Woo et al. 2018)."""
    context: Literal["blocks", "ppm", "aspp"] = "blocks"
    """The bottleneck. blocks: the paper's dual ConvBlock. ppm: pyramid pooling (PSPNet). aspp:
    atrous pyramid (DeepLabv3)."""
    decoder_blocks: Annotated[int, Field(ge=1, le=8)] = 1
    """ConvBlocks a decoder stage; those after the first are residual. 1 is the paper's."""
    fusion: Literal["finest", "pyramid"] = "finest"
    """What the head is given. finest: the last decoder stage. pyramid: the sum of all stages, each
    brought to the last one's size (Semantic FPN)."""
    auxiliary: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the loss of an FCN head on the encoder's last feature but one, in training alone; 0
    is no such head, PSPNet's is 0.4."""
    deep_supervision: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the loss of the last decoder stage but one, in training alone; half of it for each
    coarser one. 0 is none."""
    normalisation: Literal["batch", "group", "synchronised"] = "batch"
    """Of bottleneck, decoder and heads. group: independent of the batch. synchronised: batch norm
    over the processes of one training; a cell is one process, where it is the same as batch."""
    encoder_normalisation: Literal["batch", "group", "frozen", "synchronised"] = "batch"
    """Of the encoder. group: goes with weights=none. frozen: the statistics, weights and biases
    that came with the encoder's weights, never changed."""

    @model_validator(mode="after")
    def _checksum_goes_with_a_file(self) -> "Model":
        if self.weights_sha256 and not self.weights_is_file:
            raise ValueError(f"weights_sha256 goes with a weights file, not with {self.weights}")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Model":
        if self.context != "blocks":
            _refuse_idle(self, ("dropout",), f"model.context={self.context}")
        return self

    @model_validator(mode="after")
    def _weights_fit_the_encoder(self) -> "Model":
        pretrained = self.weights != "none"
        if pretrained and self.encoder == "vanilla":
            raise ValueError("encoder=vanilla starts from scratch: set weights=none")
        if pretrained and self.encoder_normalisation == "group":
            raise ValueError(
                "encoder_normalisation=group cannot use weights that were trained with batch norm: "
                "set weights=none, or frozen for group"
            )
        if not pretrained and self.encoder_normalisation == "frozen":
            raise ValueError("encoder_normalisation=frozen needs the statistics of given weights")
        return self

    @property
    def weights_is_file(self) -> bool:
        """Whether `weights` is a path, neither `none` nor one of torchvision's names."""
        return self.weights != "none" and not re.fullmatch(r"IMAGENET1K_V\d+", self.weights)


class Loss(Section):
    """What training lowers: a sum of parts, each by its weight. Paper, section 2: cross-entropy.

    The validation loss, which ReduceLROnPlateau watches, is plain cross-entropy in any case.
    """

    cross_entropy: Share = 1.0
    """Weight of the cross-entropy."""
    dice: Share = 0.0
    """Weight of the soft Dice loss, 1 - the mean over the batch's classes (Sudre et al. 2017)."""
    lovasz: Share = 0.0
    """Weight of the Lovasz-softmax loss (Berman et al. 2018). It sorts all pixels once a class."""
    class_weights: Literal["none", "median_frequency"] = "none"
    """Of the cross-entropy. median_frequency: rare classes weigh more, by how often each stands in
    the fold's own training part (Eigen and Fergus 2015)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a label that is spread over all classes, in the cross-entropy."""
    ohem: bool = False
    """Cross-entropy of the hard pixels alone (online hard example mining, Shrivastava et al. 2016):
    those whose own class has less than `ohem_threshold`, and never fewer than `ohem_min_kept`."""
    ohem_threshold: Probability = 0.7
    ohem_min_kept: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Smallest share of the batch's pixels that is kept (mmsegmentation: 100,000 of 512x1024)."""

    @model_validator(mode="after")
    def _something_is_lowered(self) -> "Loss":
        if not self.cross_entropy + self.dice + self.lovasz:
            raise ValueError("loss: all weights are 0; set loss.cross_entropy, dice or lovasz")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Loss":
        if not self.cross_entropy:
            parts = ("class_weights", "label_smoothing", "ohem")
            _refuse_idle(self, parts, "loss.cross_entropy=0")
        if not self.ohem:
            _refuse_idle(self, ("ohem_threshold", "ohem_min_kept"), "loss.ohem=False")
        return self


class Train(Section):
    """How the network is trained. The defaults are the paper's, section 2."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 65
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 2
    """Samples of one forward pass: what batch norm sees."""
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    """Forward passes whose gradients make one step: the optimiser's batch is this times larger."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-4
    """The first learning rate; of a schedule with a warm-up the highest."""
    encoder_lr_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The encoder's learning rate, as a share of the rest's."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """With sgd. Adam's two are torch's, 0.9 and 0.999."""
    nesterov: bool = False
    """With sgd."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Not on biases and normalisation. adam, sgd: a part of the gradient; adamw: apart from it."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Longest gradient, over all weights together: a longer one is shortened to it. 0 is off."""
    schedule: Literal["plateau", "poly", "cosine"] = "plateau"
    """plateau: ReduceLROnPlateau after every epoch. poly, cosine: down to `min_lr` over the whole
    training, after every step; another number of epochs is then another schedule."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """ReduceLROnPlateau, on the validation loss."""
    plateau_patience: Annotated[int, Field(ge=0, le=100_000)] = 2
    """Epochs without a better validation loss before the rate falls."""
    poly_power: Annotated[float, Field(gt=0, le=10)] = 0.9
    """poly: the rate falls as (1 - t)^power of the time t, from 0 to 1."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """poly, cosine: epochs over which the rate first rises, evenly."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """What the rate falls to."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """An exponential moving average of the weights is what is scored and kept (Polyak and Juditsky
    1992): of step n, (1 + n) / (10 + n) of the old average, at most ema_decay, and the rest new. 0
    is off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast of the forward pass; auto is bfloat16 where the device computes in it
    (GPUs since 2020, CPUs with AVX512-BF16 or AMX), else float32."""
    compile: bool = False
    """On a GPU, fuse the network's small operations by torch.compile: a tenth to a fifth faster
    after a minute or two of compilation. Rounds differently."""
    deterministic: bool = False
    """On a GPU, use only kernels whose result does not depend on the order in which threads end:
    the same bits on every run, and after a restart. Slower; a CPU's runs are so anyway."""

    @property
    def step_size(self) -> int:
        """Samples of one step of the optimiser."""
        return self.batch_size * self.accumulate

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Train":
        if self.optimizer != "sgd":
            _refuse_idle(self, ("momentum", "nesterov"), f"train.optimizer={self.optimizer}")
        of_schedule = {
            "plateau": ("plateau_factor", "plateau_patience"),
            "poly": ("poly_power", "warmup_epochs"),
            "cosine": ("warmup_epochs",),
        }
        own = of_schedule.pop(self.schedule)
        idle = tuple(name for names in of_schedule.values() for name in names if name not in own)
        _refuse_idle(self, idle, f"train.schedule={self.schedule}")
        return self

    @model_validator(mode="after")
    def _rates_and_momenta_fit(self) -> "Train":
        if self.nesterov and not self.momentum:
            raise ValueError("train.nesterov needs train.momentum above 0")
        if self.min_lr > self.lr:
            raise ValueError(f"train.min_lr {self.min_lr:g} is above train.lr {self.lr:g}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"train.warmup_epochs: got {self.warmup_epochs:g}, expected: below train.epochs, "
                f"{self.epochs}"
            )
        return self


class Evaluate(Section):
    """How a network is scored; low and full resolution, after every epoch."""

    batch_size: Annotated[int, Field(ge=1, le=4096)] = 2
    full_every: Annotated[int, Field(ge=1)] = 1
    """Epochs from one score at full resolution to the next: 5 is after every fifth and the last.
    The best epoch is always scored so, at the end at the latest, from its weights."""
    predictions: Annotated[int, Field(ge=0, le=100)] = 3
    """Validation frames a fold whose prediction is kept for the panel: spread evenly
    from the worst to the best by mIoU; an odd number from 3 on includes the median one."""


class Crf(Section):
    """A dense CRF that refines scores by the frame's colours (`cityseg/crf.py`). Off by default.

    Weights and widths are those of the authors' example for the 21 classes of Pascal VOC; reach and
    blur those of ConvCRF.
    """

    iterations: Annotated[int, Field(ge=0, le=100)] = 0
    """Rounds of mean field; 0 is off, 5 is usual."""
    appearance_weight: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Of neighbours of one colour, in nats."""
    position_sd_px: Annotated[float, Field(gt=0, le=10_000)] = 80.0
    """How far such a neighbour may be, in pixels of what the network sees."""
    color_sd: Annotated[float, Field(gt=0, le=255)] = 13.0
    """How much its colour may differ, on a scale of 0-255."""
    smoothness_weight: Annotated[float, Field(ge=0, le=1000)] = 3.0
    """Of neighbours of any colour, in nats."""
    smoothness_sd_px: Annotated[float, Field(gt=0, le=10_000)] = 3.0
    blur: Annotated[int, Field(ge=1, le=32)] = 4
    """Messages are passed between blocks of so many pixels a side; 1 is exact, and `blur`^2 times
    as slow."""
    radius: Annotated[int, Field(ge=1, le=100)] = 5
    """Where messages end: in blocks, to each side."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Crf":
        if not self.iterations:
            idle = tuple(name for name in Crf.model_fields if name != "iterations")
            _refuse_idle(self, idle, "inference.crf.iterations=0")
        return self


class Inference(Section):
    """How a frame's scores come from the network: after every epoch, and in later measurements.

    The defaults are the paper's: the resized frame, looked at once.
    """

    input: Literal["resized", "native"] = "resized"
    """resized: the frame at `data.input_size`. native: at its own size, as a network wants it that
    was trained on crops of full resolution; frames are then taken one at a time."""
    window: tuple[Pixels, Pixels] | None = None
    """Height and width of windows that are slid over what is larger, their scores averaged with
    Gaussian weights; by default all is seen at once."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    """Least share of a window that its neighbour covers, too."""
    flip: bool = False
    """Mean of softmax over the image and its mirror image."""
    scales: Annotated[
        tuple[Annotated[float, Field(ge=0.25, le=4)], ...], Field(min_length=1, max_length=16)
    ] = (1.0,)
    """Mean of softmax over the image at these scales, such as 0.75, 1 and 1.25."""
    crf: Crf = Crf()

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Inference":
        if self.window is None:
            _refuse_idle(self, ("overlap",), "inference.window=null")
        return self


class Folds(Section):
    """How the training set is split for cross-validation."""

    count: Annotated[int, Field(ge=2, le=1000)] = 3
    grouping: Literal["frames", "cities"] = "frames"
    """frames: seeded shuffle, the paper's. cities: no city on both sides of a split."""
    seed: Seed | None = None
    """Seed of the split; by default the configuration's."""


class City(Section):
    """The embedded synthetic data set, used when no other is given."""

    height: Annotated[int, Field(ge=32, le=2048, multiple_of=2)] = 128
    """Frame height in pixels; frames are twice as wide."""
    cities: Annotated[int, Field(ge=2, le=18)] = 6
    frames_per_city: Annotated[int, Field(ge=1, le=10_000)] = 16
    val_frames: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Frames of the `val` split, from a city of its own."""
    seed: Seed = 0


class Resources(Section):
    """What a training may use. Changes no result but its last digits, by the number of threads, so
    that a study may change it."""

    gpus_per_trial: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a GPU for one trial, where there are GPUs: 0.5 packs two onto one."""
    cpus_per_trial: Annotated[int, Field(ge=1, le=4096)] | None = None
    """CPU threads of one trial; by default all cores shared evenly by the trials at one time."""
    memory_gb: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Host memory of one trial, in GB; by default estimated from the model."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes that load data; by default one less than the trial's CPUs, at most 8, on a GPU,
    else none."""
    worker_timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 600
    """Seconds that a batch is waited for, until the process that loads it counts as hung."""
    cache_dir: Annotated[Path, AfterValidator(_is_a_path)] | None = None
    """Folder of the decoded frames, on a local disk; by default $CITYSEG_CACHE, else the user's
    cache folder."""


class Config(Section):
    """All settings of one training, and of the study around it."""

    seed: Seed = 0
    """Every random draw is a function of this seed, the epoch and the sample's index."""
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    inference: Inference = Inference()
    folds: Folds = Folds()
    city: City = City()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _batch_norm_has_values(self) -> "Config":
        if self.model.normalisation == "group" and self.model.encoder_normalisation in NO_BATCH:
            return self
        height, width = (math.ceil(side / 32) for side in self.data.input_size)
        if self.train.batch_size * height * width < 2:
            raise ValueError(
                "train.batch_size of 1 needs data.input_size above 32 x 32 (batch norm)"
            )
        return self

    @model_validator(mode="after")
    def _batch_norm_has_values_in_the_frames_mean(self) -> "Config":
        model = self.model
        pooled = model.context != "blocks" and model.normalisation != "group"
        if pooled and self.train.batch_size == 1:
            raise ValueError(
                f"model.context={model.context} has one value a channel and frame: "
                "train.batch_size of 1 needs model.normalisation=group"
            )
        return self

    @model_validator(mode="after")
    def _pooling_is_deterministic(self) -> "Config":
        if self.train.deterministic and self.model.context == "ppm":
            raise ValueError(
                "train.deterministic goes without model.context=ppm, whose pooling has no "
                "deterministic gradient on a GPU"
            )
        return self

    @model_validator(mode="after")
    def _compiled_code_is_not_deterministic(self) -> "Config":
        if self.train.compile and self.train.deterministic:
            raise ValueError("train.deterministic goes without train.compile: set one to false")
        return self

    @property
    def fold_seed(self) -> int:
        """Seed of the split."""
        return self.seed if self.folds.seed is None else self.folds.seed

    def identity(self) -> dict[str, Any]:
        """All settings that can move a number, as plain data: what makes two studies comparable."""
        return self.model_dump(mode="json", exclude=NO_NUMBER)

    def to_yaml(self) -> str:
        """The resolved configuration, every key written out; `load` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def shipped(name: str) -> Path:
    """Path of a configuration that comes with the project, such as `paper.yaml`."""
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    return next(
        (folder / name for folder in folders if (folder / name).is_file()), folders[1] / name
    )


def load(path: Path | None, overrides: tuple[str, ...] = ()) -> Config:
    """Read a configuration: the defaults, then the YAML file, then each `KEY=VALUE`.

    A `search` section is left out: it says which configurations a study tries beside this one.

    Args:
        path: a YAML mapping of (some of) the sections; None for the defaults alone.
        overrides: dotted keys with YAML values, such as `train.lr=3e-4`; the last one wins.

    Raises:
        InputError: an unreadable file, an unknown key, a value of the wrong type or range.
    """
    settings = override({} if path is None else read_settings(path), overrides)
    settings.pop(STUDY_SECTION, None)
    return parse(settings, source=str(path or "configuration"))


def read_settings(path: Path) -> dict[str, Any]:
    """The plain settings of a YAML file, not validated; a bare name may be a shipped one's.

    Raises:
        InputError: the file cannot be read or is no mapping.
    """
    if path.is_file() or path.name != str(path):
        return read_mapping(path)
    ours = shipped(path.name)
    if not ours.is_file():
        names = sorted(each.name for each in ours.parent.glob("*.yaml"))
        raise InputError(f"no file {path}", expected=f"a YAML file, or one of {', '.join(names)}")
    return read_mapping(ours)


def override(settings: dict[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    """Lay `KEY=VALUE` words over plain settings; the given ones stay as they are.

    Raises:
        InputError: a word of another form.
    """
    settings = dict(settings)
    for word in words:
        _override(settings, word)
    return settings


def parse(settings: dict[str, Any], source: str) -> Config:
    """Validate plain settings; `source` names them in the message of an InputError."""
    return validate(Config, settings, source)


def validate(section: type[Settings], settings: dict[str, Any], source: str) -> Settings:
    """Validate plain settings as a section.

    Raises:
        InputError: with every problem, `source` named first.
    """
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        entries = error.errors(include_url=False)
        problems = [_problem(entry, section) for entry in entries[:PROBLEMS_SHOWN]]
        more = len(entries) - len(problems)
        problems += [f"and {more} more"] if more else []
        raise InputError(f"{source}: {'; '.join(problems)}") from None


def difference(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for all leaves in which two nested mappings differ."""
    lines: list[str] = []
    for key in dict.fromkeys((*ours, *theirs)):
        old, new = ours.get(key, "(absent)"), theirs.get(key, "(absent)")
        if isinstance(old, dict) and isinstance(new, dict):
            lines += difference(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping; nothing in it is run, and no key stands twice.

    Raises:
        InputError: it cannot be read or is no such file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path} is no file of settings", got=f"more than {MOST_BYTES} bytes")
        settings = plainyaml.load(content.decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error.strerror) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a YAML file", got="bytes that are no text") from None
    except plainyaml.DocumentError as error:
        raise InputError(f"{path} is no file of settings: {error}") from None
    if not isinstance(settings, dict):
        raise InputError(str(path), got=_kind(settings), expected="a mapping of settings")
    odd = [key for key in settings if not isinstance(key, str)]
    if odd:
        raise InputError(str(path), got=f"the key {odd[0]!r}", expected="keys that are words")
    return settings


def _override(settings: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise InputError("setting", got=shown(word), expected="KEY=VALUE, such as train.lr=3e-4")
    try:
        value = plainyaml.load(text)
    except plainyaml.DocumentError:
        raise InputError(f"setting {key}", got=shown(text), expected="a YAML value") from None
    *sections, leaf = key.split(".")
    for section in sections:
        inner = settings.get(section)
        settings[section] = settings = dict(inner) if isinstance(inner, dict) else {}
    settings[leaf] = value


def _problem(entry: Any, section: type[Section]) -> str:
    """One pydantic error as `key: what (got ...)`, with the nearest key where one is unknown."""
    key = ".".join(str(part) for part in entry["loc"])[:LONGEST_SHOWN]
    if entry["type"] == "extra_forbidden":
        known = [*_known_keys(section), *([STUDY_SECTION] if section is Config else [])]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = (
            f", did you mean {near[0]}?"
            if near
            else f", known are {', '.join(section.model_fields)}"
        )
        return f"unknown key {key}{hint}"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "value_error":  # of settings that contradict each other
        return message
    return f"{key}: got {shown(entry['input'])}, expected: {message}"


def shown(value: object) -> str:
    """A value as a message quotes it: its first characters, if it is a long one."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _kind(value: object) -> str:
    return "an empty file" if value is None else f"a {type(value).__name__}"
