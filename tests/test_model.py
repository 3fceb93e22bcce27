"""The network is the paper's, takes any size, and starts from exactly the weights asked for."""

import hashlib
import pickle
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d, unfold
from torchvision.models import ResNet, get_model
from torchvision.models.feature_extraction import create_feature_extractor

from cityseg import blocks
from cityseg.blocks import SameConv2d
from cityseg.config import Model
from cityseg.errors import InputError
from cityseg.model import ResNetEncoder, UNet, build_unet, count_parameters, initial_model

NARROW = Model(encoder="resnet18", weights="none", decoder_width=0.0625)


def narrow() -> UNet:
    return initial_model(NARROW, seed=0)


def output_shapes(model: nn.Module, parts: list[nn.Module], image: torch.Tensor) -> list[tuple]:
    """Shapes that the parts give in one forward pass."""
    shapes: list[tuple] = []
    hooks = [
        part.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
        for part in parts
    ]
    model(image)
    for hook in hooks:
        hook.remove()
    return shapes


@pytest.fixture(scope="module")
def papers() -> UNet:
    """The full network without memory for its weights: shapes and counts alone."""
    with torch.device("meta"):
        return build_unet()


def test_the_papers_network_has_222_985_043_parameters(papers: UNet):
    assert count_parameters(papers) == 222_985_043
    assert count_parameters(papers.encoder) == 23_508_032
    assert count_parameters(papers.bottleneck) == 151_011_328


def test_the_stages_have_the_papers_channels_and_resolutions(papers: UNet):
    encoder, head = papers.encoder, papers.head
    assert isinstance(encoder, ResNetEncoder) and isinstance(head, nn.Sequential)
    parts = [encoder.stem, *encoder.stages, papers.bottleneck, *papers.decoder, head[0], head]
    image = torch.empty(1, 3, 512, 1024, device="meta")
    assert output_shapes(papers, parts, image) == [
        (64, 256, 512), (256, 128, 256), (512, 64, 128), (1024, 32, 64), (2048, 16, 32),
        (2048, 16, 32),
        (1024, 32, 64), (512, 64, 128), (256, 128, 256), (64, 256, 512),
        (32, 512, 1024), (19, 512, 1024),
    ]  # fmt: skip


def test_each_upsampling_is_a_2x2_transposed_convolution_that_halves_the_channels(papers: UNet):
    ups = [module for module in papers.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [(up.in_channels, up.out_channels) for up in ups] == [
        (2048, 1024), (1024, 512), (512, 256), (256, 128), (64, 32)
    ]  # fmt: skip
    assert {(up.kernel_size, up.stride) for up in ups} == {((2, 2), (2, 2))}


def test_the_bottleneck_is_a_dual_block_of_four_3x3_convolutions(papers: UNet):
    kinds = [type(m).__name__ for m in papers.bottleneck.modules() if not [*m.children()]]
    conv_bn_relu = ["SameConv2d", "BatchNorm2d", "ReLU"]
    assert [kind for kind in kinds if kind != "Identity"] == conv_bn_relu * 4
    convolutions = [m for m in papers.bottleneck.modules() if isinstance(m, nn.Conv2d)]
    assert {(c.kernel_size, c.padding, c.bias) for c in convolutions} == {((3, 3), (1, 1), None)}


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet101", "resnet152"])
def test_the_other_encoders_fit_the_same_decoder(encoder: str):
    with torch.device("meta"):
        model = build_unet(Model.model_validate({"encoder": encoder, "decoder_width": 0.5}))
    image = torch.empty(1, 3, 64, 96, device="meta")
    assert model(image).shape == (1, 19, 64, 96)


@settings(max_examples=25)
@given(st.integers(32, 97), st.integers(32, 97))
def test_the_output_has_the_inputs_size_odd_or_even(h: int, w: int):
    model = MODEL.eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, h, w)).shape == (1, 19, h, w)


MODEL = narrow()


def test_the_loss_reaches_every_parameter():
    model = narrow().train()
    torch.manual_seed(0)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_skips_come_from_the_stage_of_their_own_resolution():
    """Silencing a stage's convolutions for the skip changes the output: none is left unused."""
    model = narrow().eval()
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.encoder(image)
        whole = model(image)
        for i in range(len(features)):
            muted = [f * (k != i) for k, f in enumerate(features)]
            model.encoder.forward = lambda _image, muted=muted: muted
            assert not torch.equal(model(image), whole)


@pytest.mark.parametrize("size", [(2, 3), (4, 5)])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_convolution_is_the_same_whichever_way_it_is_computed(size: tuple[int, int], autocast):
    """12 or 40 pixels, on both sides of the 16 channels from which a matrix product is taken."""
    convolution = SameConv2d(8, 16, 3)
    image = torch.randn(2, 8, *size, requires_grad=True)
    gradient = torch.randn(2, 16, *size)
    results: list[tuple[Tensor, ...]] = []
    for way in (convolution, lambda x: conv2d(x, convolution.weight, padding=1)):
        with torch.autocast("cpu", enabled=autocast):
            out = way(image)
        results.append((out, *torch.autograd.grad(out, (image, convolution.weight), gradient)))
    for ours, plain in zip(*results, strict=True):
        assert ours.dtype == plain.dtype
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_small_maps_are_multiplied_in_training_in_float32_alone(monkeypatch: pytest.MonkeyPatch):
    taken: list[int] = []

    def noted(x: Tensor, **how: Any) -> Tensor:
        taken.append(x.shape[-1])
        return unfold(x, **how)

    monkeypatch.setattr(blocks, "unfold", noted)
    for pixels, autocast, training in (
        ((2, 3), False, True), ((4, 5), False, True), ((2, 3), True, True), ((2, 3), False, False),
    ):  # fmt: skip
        with torch.autocast("cpu", enabled=autocast):
            SameConv2d(8, 16, 3).train(training)(torch.randn(2, 8, *pixels))
    assert taken == [3]


def test_dropout_is_absent_at_0_and_acts_in_training_alone():
    assert not [m for m in MODEL.modules() if isinstance(m, nn.Dropout2d)]
    model = initial_model(NARROW.model_copy(update={"dropout": 0.5}), seed=0)
    assert len([m for m in model.modules() if isinstance(m, nn.Dropout2d)]) == 2
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for module in model.modules():  # batch statistics would hide what dropout does
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(image), model(image))
        model.eval()
        assert torch.equal(model(image), model(image))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_encoder_computes_torchvisions_features(name: str):
    torch.manual_seed(0)
    backbone = get_model(name, weights=None).eval()
    assert isinstance(backbone, ResNet)
    nodes = ["relu", "layer1", "layer2", "layer3", "layer4"]
    oracle = create_feature_extractor(backbone, nodes)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs = oracle(image)
        ours = ResNetEncoder(backbone)(image)
        for node, feature in zip(nodes, ours, strict=True):
            torch.testing.assert_close(feature, theirs[node], rtol=0, atol=0)


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18's state dict, as torchvision ships it, with a classifier."""
    torch.manual_seed(123)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(get_model("resnet18", weights=None).state_dict(), path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def from_file(path: Path, encoder: str = "resnet18", checksum: str | None = None) -> UNet:
    return initial_model(
        Model.model_validate(
            {
                "encoder": encoder,
                "decoder_width": 0.0625,
                "weights": str(path),
                "weights_sha256": checksum or sha256(path),
            }
        ),
        seed=0,
    )


def refused(path: Path, encoder: str = "resnet18", checksum: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        from_file(path, encoder, checksum)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_encoder_is(model: UNet, path: Path) -> None:
    """The model's encoder computes what torchvision's network with these weights computes."""
    backbone = get_model("resnet18", weights=None).eval()
    weights = torch.load(path, weights_only=True)
    backbone.load_state_dict(weights)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wanted = create_feature_extractor(backbone, ["layer4"])(image)["layer4"]
    torch.testing.assert_close(model.eval().encoder(image)[-1], wanted, rtol=0, atol=0)


def test_a_local_file_is_loaded_whole(resnet18_file: Path):
    assert_encoder_is(from_file(resnet18_file), resnet18_file)


def test_a_safetensors_file_is_loaded_too(resnet18_file: Path, tmp_path: Path):
    path = tmp_path / "resnet18.safetensors"
    safetensors.torch.save_file(torch.load(resnet18_file, weights_only=True), path)
    assert_encoder_is(from_file(path), resnet18_file)


def test_a_file_needs_its_own_checksum(resnet18_file: Path):
    assert sha256(resnet18_file) in refused(resnet18_file, checksum="0" * 64)
    with pytest.raises(InputError, match=r"set model\.weights_sha256="):
        initial_model(Model(encoder="resnet18", weights=str(resnet18_file)), seed=0)


def test_a_missing_file_is_named(tmp_path: Path):
    refused(tmp_path / "absent.pth", checksum="0" * 64)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, resnet18_file: Path, suffix: str):
    path = tmp_path / f"weights{suffix}"
    whole = resnet18_file.read_bytes()
    for content in (b"", b"text", whole[:5000], whole[: len(whole) // 2]):
        path.write_bytes(content)
        pickled = suffix == ".safetensors" and content.startswith(b"PK")
        assert ("got a pickle" if pickled else "cannot read weights") in refused(path)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda o, path: path.write_bytes(pickle.dumps(o, protocol=2))]
)
def test_a_pickle_in_disguise_is_never_run(tmp_path: Path, save):
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    save({"conv1.weight": Bomb(mark)}, path)
    assert "cannot read weights" in refused(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, torch.zeros(2)])
def test_a_file_of_other_things_than_named_tensors_is_refused(tmp_path: Path, content: object):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert "expected a dict of tensors" in refused(path)


def test_another_encoders_weights_are_refused_by_name(resnet18_file: Path):
    message = refused(resnet18_file, encoder="resnet34")
    assert "lacks layer1.2.conv1.weight" in message
    message = refused(resnet18_file, encoder="resnet50")
    assert "resnet50" in message


def test_weights_of_another_shape_are_refused_with_both(resnet18_file: Path, tmp_path: Path):
    weights = torch.load(resnet18_file, weights_only=True)
    weights["conv1.weight"] = weights["conv1.weight"][:, :1].clone()
    path = tmp_path / "grey.pth"
    torch.save(weights, path)
    assert "conv1.weight: got (64, 1, 7, 7), expected (64, 3, 7, 7)" in refused(path)


IMAGENET = Model(encoder="resnet18", weights="IMAGENET1K_V1", decoder_width=0.0625)
CACHED = "checkpoints/resnet18-f37072fd.pth"
"""Where torch.hub keeps torchvision's file, whose name ends with its checksum's first digits."""


@pytest.fixture
def hub(tmp_path: Path):
    """An empty torch.hub folder."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    yield tmp_path
    torch.hub.set_dir(before)


def test_torchvisions_name_finds_the_file_in_the_hubs_folder(
    hub: Path, resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
):
    cached = hub / CACHED
    cached.parent.mkdir()
    cached.write_bytes(resnet18_file.read_bytes())
    with pytest.raises(InputError, match="damaged: expected sha256 f37072fd"):
        initial_model(IMAGENET, seed=0)
    monkeypatch.setattr("cityseg.model.sha256_of", lambda path: "f37072fd" + "0" * 56)
    assert_encoder_is(initial_model(IMAGENET, seed=0), resnet18_file)


def test_a_missing_file_is_fetched_with_its_checksum(
    hub: Path, resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def fetch(url: str, to: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        Path(to).write_bytes(resnet18_file.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr("cityseg.model.sha256_of", lambda path: "f37072fd" + "0" * 56)
    assert_encoder_is(initial_model(IMAGENET, seed=0), resnet18_file)
    initial_model(IMAGENET, seed=0)
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route"),
        TimeoutError("timed out"),
        IncompleteRead(b"", 7),
        RuntimeError('invalid hash value (expected "f37072fd", got "0")'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_network_the_message_says_which_file_goes_where(
    hub: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError) as caught:
        initial_model(IMAGENET, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert str(hub / CACHED) in message
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="got IMAGENET1K_V2, expected IMAGENET1K_V1, none"):
        initial_model(IMAGENET.model_copy(update={"weights": "IMAGENET1K_V2"}), seed=0)


def test_first_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    first = narrow().state_dict()
    torch.manual_seed(2)
    again, other = narrow().state_dict(), initial_model(NARROW, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.1.weight"], other["head.1.weight"])


def test_building_leaves_the_programs_random_state_alone():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    narrow()
    assert torch.equal(torch.rand(3), wanted)


def test_loading_an_encoder_leaves_the_decoders_first_weights_as_they_were(resnet18_file: Path):
    ours, plain = from_file(resnet18_file), narrow()
    assert torch.equal(ours.head[1].weight, plain.head[1].weight)  # pyright: ignore # a Sequential's
