"""The parts beyond the paper: each does what its source says, fits, and is off by default."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_step import batches
from tiny import thin_resnet, tiny_config
from torch import nn
from torch.optim import Adam
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import FrozenBatchNorm2d, SqueezeExcitation

from cityseg.attention import AttentionGate, CBAMSkip, SqueezeExcitedSkip
from cityseg.blocks import ConvBlock, DeepBlock
from cityseg.config import Model, parse
from cityseg.context import BINS, AtrousPyramid, PyramidPooling
from cityseg.errors import InputError
from cityseg.fusion import FeaturePyramid
from cityseg.model import UNet, build_unet, build_vanilla, count_parameters, network
from cityseg.normalisation import FrozenBatchNorm, group_norm, normalise_by
from cityseg.step import training_step

PARTS: dict[str, dict[str, Any]] = {
    "attention": {"skip": "attention"},
    "squeeze": {"skip": "squeeze"},
    "cbam": {"skip": "cbam"},
    "ppm": {"context": "ppm"},
    "aspp": {"context": "aspp"},
    "deeper": {"decoder_blocks": 3},
    "pyramid": {"fusion": "pyramid"},
    "auxiliary": {"auxiliary": 0.4},
    "deep": {"deep_supervision": 0.5},
    "group": {"normalisation": "group", "encoder_normalisation": "group"},
    "synchronised": {"normalisation": "synchronised", "encoder_normalisation": "synchronised"},
    "vanilla": {"encoder": "vanilla"},
    "all": {
        "skip": "attention", "context": "ppm", "decoder_blocks": 2, "fusion": "pyramid",
        "auxiliary": 0.4, "deep_supervision": 0.5, "normalisation": "group",
    },
    "all on vanilla": {
        "encoder": "vanilla", "skip": "cbam", "context": "aspp", "decoder_blocks": 2,
        "fusion": "pyramid", "auxiliary": 0.4, "deep_supervision": 0.5,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders of 8 to 64 channels: what is tested is what stands around them."""
    monkeypatch.setattr("cityseg.model.get_model", thin_resnet)


EVERY = pytest.mark.parametrize("name", PARTS)


def settings_of(**changes: Any) -> Model:
    small: dict[str, Any] = {"encoder": "resnet18", "weights": "none", "decoder_width": 0.5}
    if changes.get("encoder") == "vanilla":
        small["decoder_width"] = 0.125
    return Model.model_validate({**small, **changes})


def narrow(**changes: Any) -> UNet:
    torch.manual_seed(0)
    return network(settings_of(**changes))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@EVERY
def test_the_output_has_the_inputs_size_odd_or_even(name: str):
    model = narrow(**PARTS[name])
    with torch.no_grad():
        for size in ((32, 32), (33, 47), (64, 50)):
            image = random(2, 3, *size)
            assert model.eval()(image).shape == (2, 19, *size)
            if size != (32, 32):  # batch norm needs more than a value
                outputs = model.train().supervised(image)
                assert [tuple(x.shape) for x in outputs] == [(2, 19, *size)] * len(outputs)


@EVERY
def test_the_loss_reaches_every_parameter(name: str):
    model = narrow(**PARTS[name]).train()
    outputs = model.supervised(random(2, 3, 64, 96))
    assert len(outputs) == len(model.supervision)
    torch.stack([x.square().mean() for x in outputs]).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@EVERY
def test_the_first_of_what_is_supervised_is_the_prediction(name: str):
    model = narrow(**PARTS[name]).eval()
    image = random(1, 3, 45, 64)
    with torch.no_grad():
        assert torch.equal(model.supervised(image)[0], model(image))


def test_by_default_there_is_no_part_in_the_state_dict():
    with torch.device("meta"):
        names = {name.partition(".")[0] for name in network().state_dict()}
    assert names == {"encoder", "bottleneck", "decoder", "head"}


@EVERY
def test_first_weights_of_encoder_and_bottleneck_are_the_plain_networks(name: str):
    """Parts that come later in the network draw later: rows of a study begin as alike as can be."""
    ours, plain = narrow(**PARTS[name]).state_dict(), narrow().state_dict()
    if "vanilla" in name:
        return
    assert torch.equal(ours["encoder.stages.3.0.conv2.weight"],
                       plain["encoder.stages.3.0.conv2.weight"])  # fmt: skip


SKIP_MAPS = st.tuples(st.integers(1, 3), st.integers(2, 17), st.integers(2, 17))


@pytest.mark.parametrize("make", [AttentionGate, SqueezeExcitedSkip, CBAMSkip])
@settings(max_examples=20)
@given(shape=SKIP_MAPS, seed=st.integers(0, 99))
def test_attention_only_ever_weakens_a_skip(make: Any, shape: tuple[int, int, int], seed: int):
    torch.manual_seed(seed)
    b, h, w = shape
    skip, coarse = 5 * random(b, 16, h, w, seed=seed), random(b, 24, -(-h // 2), -(-w // 2))
    out = make(16, 24)(skip, coarse)
    assert out.shape == skip.shape
    assert (out * skip >= 0).all() and (out.abs() <= skip.abs()).all()


def test_a_gate_weighs_places_and_follows_the_coarser_feature():
    torch.manual_seed(0)
    gate = AttentionGate(16, 24)
    skip, coarse = random(1, 16, 8, 12), random(1, 24, 4, 6)
    weights = gate(skip, coarse) / skip
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))
    assert weights.min() > 0.8, "open at first"
    other = coarse.clone()
    other[..., 0] += 3
    change = (gate(skip, other) - gate(skip, coarse)).abs().amax(1)[0]
    assert change[:, :2].min() > 0, "under the cells that differ"
    assert (change[:, 4:] == 0).all(), "and nowhere beyond their interpolation"


def test_a_gate_is_the_equation_of_its_paper():
    """Oktay et al. 2018, eq. 1-2, each linear map as a matrix product over patches of the skip."""
    torch.manual_seed(0)
    gate = AttentionGate(4, 6)
    skip, coarse = random(1, 4, 6, 8), random(1, 6, 3, 4)
    patches = F.unfold(skip, kernel_size=2, stride=2)[0]
    w_x, w_g, psi = gate.of_skip.weight, gate.of_coarse.weight, gate.weight.weight
    q = w_x.flatten(1) @ patches + w_g.flatten(1) @ coarse.flatten(2)[0]
    q = psi.flatten(1) @ (q + gate.of_coarse.bias[:, None]).clamp(min=0)  # pyright: ignore
    alpha = torch.sigmoid(q + gate.weight.bias).view(1, 1, 3, 4)  # pyright: ignore
    alpha = F.interpolate(alpha, (6, 8), mode="bilinear")
    torch.testing.assert_close(gate(skip, coarse), skip * alpha)


def test_squeeze_and_excitation_is_torchvisions_and_blind_to_where_things_are():
    torch.manual_seed(0)
    part = SqueezeExcitedSkip(32, 8)
    oracle = SqueezeExcitation(32, 8)
    oracle.load_state_dict(part.attention.state_dict())
    x, coarse = random(2, 32, 6, 10), random(2, 8, 3, 5)
    out = part(x, coarse)
    assert torch.equal(out, oracle(x))
    places = torch.randperm(60)
    moved = x.flatten(2)[..., places].view_as(x)
    torch.testing.assert_close(part(moved, coarse), out.flatten(2)[..., places].view_as(x))


def test_cbam_weighs_channels_then_places():
    """The product of a weight a channel and a weight a place has rank one in (channel, place)."""
    torch.manual_seed(0)
    part = CBAMSkip(32, 8)
    x = random(1, 32, 9, 7)
    weights = (part(x, random(1, 8, 5, 4)) / x)[0].flatten(1).detach()
    strengths = torch.linalg.svdvals(weights)
    assert strengths[1] < 1e-5 * strengths[0]
    assert weights.std(0).max() > 1e-4 and weights.std(1).max() > 1e-4, "neither is constant"


@settings(max_examples=15)
@given(st.integers(6, 19), st.integers(6, 19))
def test_pyramid_pooling_of_an_even_frame_is_even(h: int, w: int):
    torch.manual_seed(0)
    part = PyramidPooling(8, 6).eval()
    inner = part(random(2, 8, 1, 1).expand(2, 8, h, w))[..., 1:-1, 1:-1]  # the border sees padding
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner))


def test_pyramid_pooling_averages_each_cell_by_hand():
    torch.manual_seed(0)
    part = PyramidPooling(8, 6).eval()
    x = random(1, 8, 12, 18)
    levels = [x]
    for bins, level in zip(BINS, part.levels, strict=True):
        cells = x.view(1, 8, bins, 12 // bins, bins, 18 // bins).mean((3, 5))
        convolved = level[1:](cells)  # pyright: ignore
        levels.append(F.interpolate(convolved, (12, 18), mode="bilinear"))
    torch.testing.assert_close(part(x), part.fuse(torch.cat(levels, 1)))


@pytest.mark.parametrize(("stride", "rates"), [(32, (3, 6, 9)), (16, (6, 12, 18))])
def test_the_atrous_pyramid_is_torchvisions_with_deeplabs_reach(stride: int, rates: Any):
    torch.manual_seed(0)
    part = AtrousPyramid(8, 4, stride).eval()
    oracle = ASPP(8, rates, 4).eval()
    oracle.load_state_dict(part.state_dict())
    x = random(2, 8, 20, 24)
    assert torch.equal(part(x), oracle(x))


def test_a_deep_block_is_a_conv_block_and_residual_ones():
    torch.manual_seed(0)
    part = DeepBlock(6, 4, blocks=3).eval()
    x = random(1, 6, 9, 9)
    wanted = part[0](x)
    for block in (part[1], part[2]):
        plain = ConvBlock(4, 4).eval()
        values = block.state_dict().values()
        plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
        before_relu = nn.Sequential(*[*plain][:5])
        wanted = torch.relu(wanted + before_relu(wanted))
    torch.testing.assert_close(part(x), wanted)


def test_the_pyramid_sums_its_levels():
    torch.manual_seed(0)
    part = FeaturePyramid((8, 6, 4)).eval()
    outputs = [random(1, 8, 3, 4), random(1, 6, 5, 8), random(1, 4, 9, 15)]
    alone = []
    for i in range(3):
        muted = [x if k == i else torch.zeros_like(x) for k, x in enumerate(outputs)]
        alone.append(part(muted))
    torch.testing.assert_close(part(outputs), torch.stack(alone).sum(0))
    assert all(x.shape == (1, 4, 9, 15) and x.any() for x in alone)


@EVERY
def test_heads_for_training_cost_the_prediction_nothing(name: str):
    """No module of `supervisors` is run by the forward pass."""
    model = narrow(**PARTS[name]).eval()

    def refuse(*_: object) -> None:
        raise AssertionError("a head for training was run")

    for module in model.supervisors.modules():
        module.register_forward_pre_hook(refuse)
    with torch.no_grad():
        model(random(1, 3, 32, 32))
        if len(model.supervision) > 1:
            with pytest.raises(AssertionError, match="was run"):
                model.supervised(random(1, 3, 64, 64))


def test_supervision_is_weighted_as_configured():
    model = narrow(auxiliary=0.4, deep_supervision=0.5)
    assert model.supervision == (1.0, 0.4, 0.125, 0.25, 0.5)
    outputs: list[tuple[int, ...]] = []
    for head in (*model.supervisors.auxiliary, *model.supervisors.deep):
        head.register_forward_hook(lambda _m, _i, out: outputs.append(tuple(out.shape[-2:])))
    model.supervised(random(2, 3, 64, 96))
    assert outputs == [(4, 6), (4, 6), (8, 12), (16, 24)], "1/16; 1/16, 1/8, 1/4"
    assert narrow(auxiliary=0.4).supervision == (1.0, 0.4)
    assert narrow().supervision == (1.0,)


def test_every_supervised_loss_moves_the_weights():
    config = tiny_config(model={"auxiliary": 0.4, "deep_supervision": 0.5})
    torch.manual_seed(0)
    model = network(config.model).train()
    before = copy.deepcopy(model.state_dict())
    step = training_step(model, Adam(model.parameters(), lr=1e-3), config, torch.device("cpu"))
    step(batches(1)[0])
    same = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert same == []


# normalisation


def test_a_network_of_group_norms_sees_each_frame_alone():
    model = narrow(**PARTS["group"]).train()
    one, other = random(1, 3, 64, 64), random(1, 3, 64, 64, seed=1)
    with torch.no_grad():
        together = model(torch.cat([one, other]))
        torch.testing.assert_close(together[:1], model(one), atol=1e-5, rtol=1e-4)
        batched = narrow().train()
        assert not torch.allclose(batched(torch.cat([one, other]))[:1], batched(one), atol=1e-2)


@pytest.mark.parametrize("channels", [2, 4, 6, 12, 16, 64, 96, 100, 2048])
def test_groups_divide_the_channels_and_hold_two_of_them_or_more(channels: int):
    norm = group_norm(nn.BatchNorm2d(channels, eps=1e-3))
    assert norm.num_channels == channels and norm.eps == 1e-3
    assert channels // norm.num_groups >= 2
    assert norm.num_groups == 32 or channels % 64


def test_synchronised_batch_norm_of_one_process_is_batch_norm():
    plain, other = narrow().train(), narrow(**PARTS["synchronised"]).train()
    assert [*plain.state_dict()] == [*other.state_dict()]
    assert any(isinstance(m, nn.SyncBatchNorm) for m in other.encoder.modules())
    image = random(2, 3, 64, 64)
    assert torch.equal(plain(image), other(image))


def frozen_settings() -> Model:
    return settings_of(encoder_normalisation="frozen", weights="IMAGENET1K_V1")


def test_a_frozen_encoder_keeps_its_statistics_and_computes_as_in_evaluation():
    torch.manual_seed(0)
    plain = network(settings_of())
    plain.train()(3 + 2 * random(4, 3, 64, 64))  # statistics to keep
    model = network(frozen_settings())
    model.load_state_dict(plain.state_dict())
    before = copy.deepcopy(model.state_dict())
    optimizer = Adam(model.parameters(), lr=1e-2)
    training_step(model.train(), optimizer, tiny_config(), torch.device("cpu"))(batches(1)[0])
    norms = [m for m in model.encoder.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 1 + 4 * 2 + 3, "stem, two a block, three shortcuts"
    after = model.state_dict()
    fixed = [n for n in before if n.startswith("encoder") and torch.equal(before[n], after[n])]
    assert len(fixed) == 4 * len(norms), "and every convolution moved"
    model.load_state_dict(before)
    image = random(2, 3, 64, 64)
    torch.testing.assert_close(model.train().encoder(image), plain.eval().encoder(image))


def test_frozen_batch_norm_is_torchvisions_and_keeps_bfloat16():
    torch.manual_seed(0)
    norm = FrozenBatchNorm(6)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(6) + 0.5)
    oracle = FrozenBatchNorm2d(6)
    oracle.load_state_dict(norm.state_dict())
    x = random(2, 6, 5, 5)
    torch.testing.assert_close(norm(x), oracle(x))
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_encoder_and_decoder_are_normalised_apart():
    model = network(frozen_settings().model_copy(update={"normalisation": "group"}))
    kinds = {
        name: {type(m).__name__ for m in part.modules() if "Norm" in type(m).__name__}
        for name, part in model.named_children()
    }
    assert kinds["encoder"] == {"FrozenBatchNorm"}
    assert kinds["decoder"] == kinds["bottleneck"] == {"GroupNorm"}


def test_replacing_norms_keeps_their_order():
    part = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    normalise_by(part, "group")
    assert [type(m).__name__ for m in part] == ["Conv2d", "GroupNorm", "ReLU"]


# vanilla


def test_the_vanilla_unet_is_the_classic_one():
    """31,037,633 values for one class, as its common PyTorch version counts; 65 a class in them."""
    with torch.device("meta"):
        model = build_vanilla(Model(encoder="vanilla", weights="none"))
        one_class = build_vanilla(Model(encoder="vanilla", weights="none"), classes=1)
    assert count_parameters(one_class) == 31_037_633
    assert count_parameters(model) == 31_037_633 + 18 * 65 == 31_038_803
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 18 + 1
    assert len([m for m in model.modules() if isinstance(m, nn.ConvTranspose2d)]) == 4
    widths = [block[0].out_channels for block in model.encoder.blocks]  # pyright: ignore
    assert [*widths, model.bottleneck[0].out_channels] == [64, 128, 256, 512, 1024]  # pyright: ignore


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": {"encoder": "vanilla"}}, "set weights=none"),
        ({"model": {"encoder_normalisation": "group"}}, "set weights=none, or frozen for group"),
        ({"model": {"encoder_normalisation": "frozen", "weights": "none"}}, "needs the statistics"),
        ({"model": {"context": "ppm"}, "train": {"batch_size": 1}}, "normalisation=group"),
        ({"model": {"context": "ppm"}, "train": {"deterministic": True}}, "without model.context"),
        ({"model": {"decoder_blocks": 0}}, "decoder_blocks"),
        ({"model": {"skip": "gate"}}, "model.skip"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], why: str):
    with pytest.raises(InputError, match=why):
        parse(changes, "a test")


def test_a_batch_of_one_small_frame_needs_norms_without_batch():
    small: dict[str, Any] = {"train": {"batch_size": 1}, "data": {"input_size": [32, 32]}}
    with pytest.raises(InputError, match="batch norm"):
        parse({**small, "model": {"normalisation": "group"}}, "a test")
    parse({**small, "model": {"normalisation": "group", "encoder_normalisation": "frozen"}}, "")


def test_build_unet_and_network_agree_on_the_papers():
    torch.manual_seed(0)
    plain = build_unet(settings_of()).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in narrow().state_dict().items())
