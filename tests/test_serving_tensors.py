"""Tensors on the wire: what is sent comes back, and nothing that does not fit is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alexnet_deploy.errors import InputError
from alexnet_deploy.serving import tensors
from alexnet_deploy.serving.http_codec import answer, parse
from alexnet_deploy.serving.tensors import DTYPES, Response, Tensor, from_raw, from_values, to_raw, to_values

shapes = arrays.array_shapes(max_dims=3, max_side=3, min_side=0)
numbers = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: st.tuples(st.just(name), arrays.arrays(DTYPES[name], shapes, elements=None))
)


@given(numbers)
def test_raw_bytes_come_back_as_they_were(named: tuple[str, np.ndarray]) -> None:
    name, array = named
    back = from_raw("x", name, array.shape, to_raw(Tensor("x", name, array))).array
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(numbers.filter(lambda named: bool(np.isfinite(named[1].astype(np.float64)).all())))
def test_values_come_back_as_they_were(named: tuple[str, np.ndarray]) -> None:
    name, array = named
    back = from_values("x", name, array.shape, to_values(Tensor("x", name, array))).array
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_strings_come_back_as_they_were(values: list[bytes]) -> None:
    array = np.empty(len(values), object)
    array[:] = values
    assert list(from_raw("x", "BYTES", [len(values)], to_raw(Tensor("x", "BYTES", array))).array) == values


@given(st.binary(max_size=40), st.integers(0, 6))
def test_any_bytes_are_strings_or_refused(raw: bytes, count: int) -> None:
    try:
        found = from_raw("x", "BYTES", [count], raw).array
    except InputError:
        return
    assert to_raw(Tensor("x", "BYTES", found)) == raw


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", [2], b"1234"),
        ("FP32", [1], b"12345"),
        ("FP32", [-1], b""),
        ("FP32", [], b"1234"),
        ("FP32", [1] * 9, b"1234"),
        ("FP32", [2**40, 2**40], b"1234"),
        ("FP32", [0, 2**62], b""),
        ("UINT8", [2**70, 0], b""),
        ("BYTES", [0, 2**41], b""),
        ("BF16", [1], b"12"),
        ("float32", [1], b"1234"),
        ("BYTES", [2**40], b"\0\0\0\0"),
        ("BYTES", [1], b"\xff\xff\xff\x7fabc"),
    ],
)
def test_bytes_that_do_not_fit_their_shape_are_refused(datatype: str, shape: list[int], raw: bytes) -> None:
    with pytest.raises(InputError):
        from_raw("x", datatype, shape, raw)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT8", [256]),
        ("UINT8", [-1]),
        ("UINT8", [0.5]),
        ("INT64", [2**70]),
        ("FP32", ["one"]),
        ("FP32", [None]),
        ("FP32", [[1.0], [1.0, 2.0]]),
        ("FP32", [1.0, 2.0]),
        ("BYTES", [1]),
    ],
)
def test_values_that_do_not_fit_their_datatype_are_refused(datatype: str, values: list[Any]) -> None:
    with pytest.raises(InputError):
        from_values("x", datatype, [1], values)


def test_nested_values_are_taken_too() -> None:
    assert from_values("x", "FP32", [2, 2], [[1, 2], [3, 4]]).array.tolist() == [[1, 2], [3, 4]]


@given(st.binary(max_size=200), st.data())
def test_any_body_is_a_request_or_refused(body: bytes, data: st.DataObject) -> None:
    header_bytes = data.draw(st.integers(0, len(body)))
    with pytest.raises(InputError):
        parse(body, header_bytes)


def test_a_deep_nest_of_lists_is_refused() -> None:
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"
    with pytest.raises(InputError):
        parse(body, len(body))


def test_binary_outputs_follow_the_json_in_its_order() -> None:
    first, second = Tensor("a", "FP32", np.ones((1, 2), np.float32)), tensors.strings("b", [["x", "yz"]])
    body, json_bytes = answer(Response("m", "1", (first, second)), {"": False, "a": True, "b": True})
    assert json_bytes is not None
    assert body[json_bytes:] == to_raw(first) + to_raw(second)
    assert answer(Response("m", "1", (first,)), {"": False})[1] is None
