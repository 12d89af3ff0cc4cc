"""How thin layers may be: what the logits lose, foretold and found, and the ranks that save the most for it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.onnx_graph import load_graph
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.quantization import cpu_forms
from alexnet_deploy.quantization.comparison import logits, relative_error
from alexnet_deploy.quantization.cpu_forms import other_forms
from alexnet_deploy.quantization.directions import Directions
from alexnet_deploy.quantization.low_rank import to_low_rank
from alexnet_deploy.quantization.thinness import Thin, cheapest, choose_ranks, thin_layers
from alexnet_deploy.quantization.wide import Wide, observe
from tests.small_nets import Net, artifact_of

MOST = 0.3**2


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    return PictureSet.open("demo:train").subset(range(192))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two convolutions and two connected layers, all of which can be thinner; random weights use every direction they have."""
    net = Net()
    first = net.op("Relu", net.conv("input", "first", (64, 3), kernel=7))
    second = net.op("Relu", net.conv(net.op("MaxPool", first, kernel_shape=[4, 4], strides=[4, 4]), "second", (96, 64)))
    pooled = net.op("Flatten", net.op("MaxPool", second, kernel_shape=[4, 4], strides=[4, 4]))
    hidden = net.op("Relu", net.gemm(pooled, "hidden", (256, 384)))
    net.gemm(hidden, "last", (10, 256), out="logits")
    return artifact_of(net.model(), tmp_path_factory.mktemp("thin"))


@pytest.fixture(scope="module")
def layers(whole: Artifact, pictures: PictureSet) -> dict[str, Wide]:
    return observe(whole, pictures.subset(range(160)))


@pytest.fixture(scope="module")
def tried(whole: Artifact, layers: dict[str, Wide], pictures: PictureSet) -> dict[str, tuple[Thin, ...]]:
    return thin_layers(whole, layers, pictures.subset(range(160, 192)), MOST)


def found_error(whole: Artifact, layers: dict[str, Wide], ranks: dict[str, int], pictures: PictureSet, path: Path) -> float:
    """Of the graph that is written, on the pictures that thin layers were compared on."""
    thin = to_low_rank(whole, path, layers, ranks)
    compared_on = pictures.subset(range(160, 192))
    graphs = (load_graph(whole.path), load_graph(thin.path))
    return relative_error(*(logits(graph, whole.manifest, compared_on) for graph in graphs))


def test_what_each_layer_costs_is_what_the_written_graph_loses(
    whole: Artifact, layers: dict[str, Wide], tried: dict[str, tuple[Thin, ...]], pictures: PictureSet, tmp_path: Path
) -> None:
    assert len(tried) == len(layers) == 3
    for name, thin in tried.items():
        rank, error = thin[0]
        assert found_error(whole, layers, {name: rank}, pictures, tmp_path / "thin.onnx") == pytest.approx(error, rel=1e-3)


def test_a_layer_gets_thinner_until_it_costs_too_much(layers: dict[str, Wide], tried: dict[str, tuple[Thin, ...]]) -> None:
    for name, thin in tried.items():
        ranks = [each.rank for each in thin]
        assert ranks[0] == layers[name].most
        assert ranks == sorted(set(ranks), reverse=True)
        assert all(each.error <= MOST for each in thin)
        assert [each.error for each in thin] == sorted(each.error for each in thin)
    assert any(len(thin) > 1 for thin in tried.values())


def test_no_more_is_tried_than_may_be_lost(
    whole: Artifact, layers: dict[str, Wide], tried: dict[str, tuple[Thin, ...]], pictures: PictureSet
) -> None:
    less = thin_layers(whole, layers, pictures.subset(range(160, 192)), MOST / 5)
    assert less == {name: tuple(each for each in thin if each.error <= MOST / 5) for name, thin in tried.items()} != tried


def test_what_all_of_them_do_together_is_foretold(
    whole: Artifact, layers: dict[str, Wide], tried: dict[str, tuple[Thin, ...]], pictures: PictureSet, tmp_path: Path
) -> None:
    ranks = choose_ranks(layers, tried, MOST)
    assert len(ranks) > 1
    foretold = sum(each.error for name, thin in tried.items() for each in thin if ranks.get(name) == each.rank)
    assert foretold <= MOST
    found = found_error(whole, layers, ranks, pictures, tmp_path / "thin.onnx")
    assert found == pytest.approx(foretold, rel=0.5)


def wide(kind: str, inputs: int, outputs: int, places: int) -> Wide:
    return Wide(
        kind,
        inputs,
        places,
        Directions(np.zeros(outputs, np.float32), np.eye(outputs, dtype=np.float32), np.zeros(outputs, np.float32)),
    )


def test_weights_count_with_one_picture_and_multiplications_with_many() -> None:
    """A connected layer of a million weights against a convolution of a sixteenth of them, at a hundred places."""
    layers = {"connected": wide("Gemm", 1024, 1024, 1), "convolution": wide("Conv", 256, 256, 100)}
    tried = {"connected": (Thin(64, 0.01),), "convolution": (Thin(16, 0.01),)}
    assert choose_ranks(layers, tried, 0.01, batch=1) == {"connected": 64}
    assert choose_ranks(layers, tried, 0.01, batch=32) == {"convolution": 16}
    assert choose_ranks(layers, tried, 0.02, batch=1) == {"connected": 64, "convolution": 16}
    assert choose_ranks(layers, tried, 0.009) == {}


@given(data=st.data())
def test_no_other_choice_within_the_budget_costs_less(data: st.DataObject) -> None:
    items = data.draw(
        st.lists(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4096)), max_size=4), min_size=1, max_size=5), label="items"
    )
    options = [[(100, 0), *item] for item in items]
    costs, errors = ([[option[part] for option in item] for item in options] for part in (0, 1))
    most = 4096  # errors in whole steps of it: nothing is lost by rounding
    chosen = cheapest(costs, errors, most)
    spent, cost = (sum(each[index] for each, index in zip(of, chosen, strict=True)) for of in (errors, costs))
    assert spent <= most
    within = [choice for choice in product(*options) if sum(error for _, error in choice) <= most]
    assert cost == min(sum(price for price, _ in choice) for choice in within)


def test_each_error_of_the_logits_is_a_form(
    whole: Artifact, pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_forms, "CALIBRATED_ON", 32)
    monkeypatch.setattr(cpu_forms, "THIN_LAYERS_ERR", {"thin0": 1e-6, "thin20": 0.2, "thin20again": 0.2, "thin60": 0.6})
    forms = list(other_forms(whole, tmp_path, calibration=pictures))
    assert [form.path.name for form in forms] == ["net.thin20.int8.cpu.onnx", "net.thin60.int8.cpu.onnx"]
    sizes = [form.manifest.size_bytes for form in forms]
    assert sizes[0] > sizes[1]
    assert all("low rank" in form.manifest.notes for form in forms)
    assert {form.manifest.calibration.method for form in forms if form.manifest.calibration} == {"minmax"}


def test_too_few_pictures_are_told_of(whole: Artifact, pictures: PictureSet, tmp_path: Path) -> None:
    told: list[str] = []
    assert list(other_forms(whole, tmp_path, calibration=pictures.subset(range(31)), told=told.append)) == []
    assert told == ["thin layers were not tried: 31 calibration pictures in demo:train"]
