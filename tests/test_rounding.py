from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.quantization.layers import Layer
from alexnet_deploy.quantization.rounding import BLOCK, Moments, refine
from alexnet_deploy.quantization.weights import quantise_weight
from alexnet_deploy.types import Precision

GEMM = Layer("fc", "Gemm", "x", "w", None, "y", 0)
CONV = Layer("conv", "Conv", "x", "w", None, "y", 0)


def correlated(samples: int, features: int, seed: int = 0) -> np.ndarray:
    """Activations as layers see them: few causes, many features, never negative."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((samples, 12)) @ random.standard_normal((12, features))
    return np.maximum(mixed + 0.3 * random.standard_normal((samples, features)), 0).astype(np.float32)


def gemm_moments(features: int, outputs: int, data: np.ndarray) -> Moments:
    moments = Moments(GEMM, helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (outputs, features))
    moments.add(data[:100])
    moments.add(data[100:])
    return moments


@pytest.mark.parametrize(("precision", "limit"), [(Precision.INT8, 127), (Precision.INT8, 64), (Precision.FP8, 127)])
def test_a_layer_answers_better_on_pictures_that_were_not_used(precision: Precision, limit: int) -> None:
    weight = np.random.default_rng(1).standard_normal((24, 80)).astype(np.float32)
    known, unseen = correlated(400, 80), correlated(400, 80, seed=0)[::-1] * np.float32(0.9)
    refined = refine(weight, 0, gemm_moments(80, 24, known), precision, limit=limit)
    plain = quantise_weight(weight, 0, precision, limit=limit)

    def error(stored: np.ndarray) -> float:
        return float(np.square(unseen @ (stored - weight).T).sum())

    assert error(refined.dequantised()) < 0.5 * error(plain.dequantised())
    assert np.array_equal(refined.scale, plain.scale)
    assert np.abs(refined.values.astype(np.float32)).max() <= (448 if precision is Precision.FP8 else limit)


def test_inputs_that_are_never_seen_are_rounded_each_by_itself() -> None:
    weight = np.random.default_rng(1).standard_normal((5, 30)).astype(np.float32)
    silent = gemm_moments(30, 5, np.zeros((200, 30), np.float32))
    assert np.array_equal(refine(weight, 0, silent, Precision.INT8).values, quantise_weight(weight, 0, Precision.INT8).values)


def test_moments_of_multiplied_data_need_no_second_look() -> None:
    random = np.random.default_rng(2)
    factor = random.uniform(1, 1.2, 3).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    data = random.standard_normal((40, 3, 9, 9)).astype(np.float32)
    known, wanted = (Moments(CONV, node, (4, 3, 2, 2)) for _ in range(2))
    known.add(data)
    wanted.add(data * factor.reshape(-1, 1, 1))

    def inverse(moments: Moments) -> np.ndarray:
        ((found,),) = moments.compensations()
        assert found is not None
        back = np.argsort(found.order)
        return (found.factor.T @ found.factor)[np.ix_(back, back)]

    np.testing.assert_allclose(inverse(known.of_multiplied(factor)), inverse(wanted), atol=0.01 * np.abs(inverse(wanted)).max())
    assert np.abs(inverse(known) - inverse(wanted)).max() > 0.1 * np.abs(inverse(wanted)).max()


def test_wide_layers_are_refined_block_by_block() -> None:
    features = BLOCK + 40
    weight = np.random.default_rng(1).standard_normal((4, features)).astype(np.float32)
    data = correlated(200, features)
    moments = gemm_moments(features, 4, data)
    assert [len(block) for block in moments.blocks[0]] == [BLOCK, 40]
    error = data @ (refine(weight, 0, moments, Precision.INT8).dequantised() - weight).T
    plain = data @ (quantise_weight(weight, 0, Precision.INT8).dequantised() - weight).T
    assert np.square(error).sum() < np.square(plain).sum()


@pytest.mark.parametrize(
    ("attributes", "dims"),
    [
        ({"pads": [1, 1, 1, 1]}, (6, 4, 3, 3)),
        ({"pads": [2, 0, 1, 1], "strides": [2, 1]}, (6, 4, 3, 2)),
        ({"dilations": [2, 2]}, (6, 4, 2, 2)),
        ({"group": 2}, (6, 2, 3, 3)),
        ({"group": 4, "pads": [1, 1, 1, 1]}, (4, 1, 3, 3)),
    ],
)
def test_a_convolution_is_the_product_of_its_weights_and_patches(attributes: dict[str, object], dims: tuple[int, ...]) -> None:
    """With every position taken, sum |W patches|^2, from the moments, is the sum of squares that Conv itself gives."""
    random = np.random.default_rng(2)
    data = random.standard_normal((3, 4, 7, 6)).astype(np.float32)
    weight = random.standard_normal(dims).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    moments = Moments(CONV, node, dims)
    moments.add(data)
    result = ReferenceEvaluator(node).run(None, {"x": data, "w": weight})[0]
    rows = weight.reshape(len(moments.blocks), -1, int(np.prod(dims[1:]))).astype(np.float64)
    power = sum(np.einsum("oi,ij,oj->", group, blocks[0], group) for group, blocks in zip(rows, moments.blocks, strict=True))
    assert power == pytest.approx(float(np.square(result, dtype=np.float64).sum()), rel=1e-4)


def test_the_axis_of_channels_is_kept() -> None:
    weight = np.random.default_rng(1).standard_normal((30, 5)).astype(np.float32)
    moments = gemm_moments(30, 5, correlated(200, 30))
    upright = refine(np.ascontiguousarray(weight.T), 0, moments, Precision.INT8)
    assert np.array_equal(refine(weight, 1, moments, Precision.INT8).values, upright.values.T)
