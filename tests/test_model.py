"""The architecture: torchvision's names and shapes, at any width and input size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import InputError, ModelError
from training.family import FAMILY, LocalResponseNorm, PoolTo
from training.model import AlexNet, ModelConfig, build_model, build_with_weights, preprocessing

# As torchvision.models.alexnet(num_classes=1000).state_dict() has them.
TORCHVISION = {
    "features.0.weight": (64, 3, 11, 11),
    "features.0.bias": (64,),
    "features.3.weight": (192, 64, 5, 5),
    "features.3.bias": (192,),
    "features.6.weight": (384, 192, 3, 3),
    "features.6.bias": (384,),
    "features.8.weight": (256, 384, 3, 3),
    "features.8.bias": (256,),
    "features.10.weight": (256, 256, 3, 3),
    "features.10.bias": (256,),
    "classifier.1.weight": (4096, 9216),
    "classifier.1.bias": (4096,),
    "classifier.4.weight": (4096, 4096),
    "classifier.4.bias": (4096,),
    "classifier.6.weight": (1000, 4096),
    "classifier.6.bias": (1000,),
}


def test_torchvisions_state_dict_loads_strictly_and_has_61_100_840_parameters() -> None:
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in TORCHVISION.items()}
    model = build_with_weights(ModelConfig(), published)
    assert sum(p.numel() for p in model.parameters()) == 61_100_840
    assert [(n, tuple(t.shape)) for n, t in model.state_dict().items()] == list(TORCHVISION.items())


@pytest.mark.parametrize("wrong", ["missing", "one more", "shape", "dtype"])
def test_weights_that_do_not_fit_are_refused(wrong: str) -> None:
    config = ModelConfig(classes=3, width=0.05)
    weights = build_model(config).state_dict()
    name = "features.3.bias"
    if wrong == "missing":
        del weights[name]
    elif wrong == "one more":
        weights["features.4.bias"] = weights[name]
    else:
        weights[name] = weights[name][:-1] if wrong == "shape" else weights[name].half()
    with pytest.raises(ModelError, match="features"):
        build_with_weights(config, weights)


def test_the_forward_pass_is_the_published_one() -> None:
    """Layer by layer in plain functions, so that a change to a stride, a padding or an order is seen."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(classes=7, width=0.1)).eval()
    f, x = torch.nn.functional, torch.randn(2, 3, 224, 224)
    w = model.state_dict()
    h = f.max_pool2d(f.relu(f.conv2d(x, w["features.0.weight"], w["features.0.bias"], stride=4, padding=2)), 3, 2)
    h = f.max_pool2d(f.relu(f.conv2d(h, w["features.3.weight"], w["features.3.bias"], padding=2)), 3, 2)
    for layer in (6, 8, 10):
        h = f.relu(f.conv2d(h, w[f"features.{layer}.weight"], w[f"features.{layer}.bias"], padding=1))
    h = f.adaptive_avg_pool2d(f.max_pool2d(h, 3, 2), (6, 6)).flatten(1)
    for layer in (1, 4):
        h = f.relu(f.linear(h, w[f"classifier.{layer}.weight"], w[f"classifier.{layer}.bias"]))
    expected = f.linear(h, w["classifier.6.weight"], w["classifier.6.bias"])
    torch.testing.assert_close(model(x), expected)


@given(height=st.integers(1, 14), width=st.integers(1, 14))
@settings(deadline=None)
def test_pooling_to_6x6_is_adaptive_average_pooling(height: int, width: int) -> None:
    maps = torch.randn(2, 3, height, width)
    torch.testing.assert_close(PoolTo(6)(maps), torch.nn.AdaptiveAvgPool2d((6, 6))(maps))


@pytest.mark.parametrize("size", [63, 95, 128, 160, 227, 300])
def test_every_input_size_from_63_px_works(size: int) -> None:
    model = build_model(ModelConfig(classes=5, width=0.05, input_size=size)).eval()
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 5)


@given(width=st.floats(0.01, 2), classes=st.integers(1, 2000))
@settings(deadline=None, max_examples=25)
def test_width_scales_every_layer_but_the_last_to_multiples_of_8(width: float, classes: int) -> None:
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in AlexNet(ModelConfig(classes=classes, width=width)).state_dict().items()}
    for name, published in TORCHVISION.items():
        channels = shapes[name][0]
        if name.startswith("classifier.6"):
            assert channels == classes
        else:
            assert channels % 8 == 0
            assert channels >= 8
            assert abs(channels - published[0] * width) <= max(4, 8 - published[0] * width)


def test_signals_keep_their_size_through_a_fresh_network() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(classes=10, width=0.25)).eval()
    spread = model.features(torch.randn(4, 3, 224, 224)).std().item()
    assert 0.1 < spread < 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"arch": "vgg"},
        {"classes": 0},
        {"width": 0.0},
        {"width": float("nan")},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"input_size": 62},
        {"input_size": 5000},
    ],
)
def test_a_config_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ModelConfig.from_dict({**ModelConfig().to_dict(), **wrong})


@pytest.mark.parametrize("wrong", [{"classes": "10"}, {"classes": 1.5}, {"width": None}, {"arch": 3}])
def test_a_config_of_other_types_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ModelConfig.from_dict({**ModelConfig().to_dict(), **wrong})


@given(
    st.builds(
        ModelConfig,
        classes=st.integers(1, 10**6),
        width=st.floats(0.01, 8),
        dropout=st.floats(0, 0.99),
        input_size=st.integers(63, 4096),
    )
)
def test_a_config_survives_the_manifest(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("arch", FAMILY)
def test_every_member_answers_at_its_own_and_at_its_smallest_input_and_no_smaller(arch: str) -> None:
    member = FAMILY[arch]
    for size in (member.input_size, member.smallest_input):
        model = build_model(ModelConfig(arch=arch, classes=5, width=0.05, input_size=size)).eval()
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 5)
    with pytest.raises(InputError, match="input size"):
        ModelConfig(arch=arch, input_size=member.smallest_input - 1)
    if arch == "alexnet-tutorial":
        return  # its pooling is padded
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, member.smallest_input - 1, member.smallest_input - 1))


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        ("alexnet-2012", 60_965_224),  # the "60 million" of the paper's abstract
        ("alexnet-caffe", 60_965_224),
        ("alexnet-bn", 61_100_840 - 1152 + 2 * 1152),  # a scale and a shift a channel in place of its bias
    ],
)
def test_published_members_have_their_number_of_parameters(arch: str, parameters: int) -> None:
    with torch.device("meta"):
        model = AlexNet(ModelConfig(arch=arch, input_size=FAMILY[arch].input_size))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_feature_maps_of_the_2012_network_are_the_papers() -> None:
    model = build_model(ModelConfig(arch="alexnet-2012", classes=5, width=0.1, input_size=227)).eval()
    sizes, maps = [], torch.zeros(1, 3, 227, 227)
    for layer in model.features:
        maps = layer(maps)
        if isinstance(layer, torch.nn.Conv2d):
            sizes.append(maps.shape[-1])
    assert sizes == [55, 27, 13, 13, 13]
    assert maps.shape[-1] == 6


def test_response_normalisation_has_the_papers_constants() -> None:
    """Section 3.3, written out: b_i = a_i / (k + alpha * sum of a_j^2 over the five nearest maps) ^ beta."""
    norm = next(m for m in AlexNet(ModelConfig(arch="alexnet-2012", width=0.1)).modules() if isinstance(m, LocalResponseNorm))
    a = 20 * torch.rand(1, 9, 2, 2, dtype=torch.float64)
    sums = torch.stack([(a[:, max(0, i - 2) : i + 3] ** 2).sum(1) for i in range(9)], dim=1)
    torch.testing.assert_close(norm(a), a / (2 + 1e-4 * sums) ** 0.75)


def test_caffe_takes_blue_green_red_from_0_to_255_and_fresh_weights_allow_for_it() -> None:
    config = ModelConfig(arch="alexnet-caffe", classes=5, width=0.25, input_size=227)
    recipe = preprocessing(config)
    assert (recipe.channel_order, recipe.scale, recipe.std, recipe.resize) == ("bgr", 1.0, (1.0, 1.0, 1.0), 259)
    torch.manual_seed(0)
    model = build_model(config).eval()
    assert 0.1 < model.features[0](58 * torch.randn(2, 3, 227, 227)).std().item() < 10
