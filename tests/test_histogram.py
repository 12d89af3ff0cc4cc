from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alexnet_deploy.quantization.histogram import Histogram

floats = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
tensors = arrays(np.float32, st.integers(1, 200), elements=floats)


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


@given(tensors, st.data())
def test_neither_order_nor_batch_size_changes_the_result(values: np.ndarray, data: st.DataObject) -> None:
    shuffled = np.array(data.draw(st.permutations(list(values))), np.float32)
    cut = data.draw(st.integers(0, len(values)))
    once, in_parts = histogram_of(values), histogram_of(shuffled[:cut], shuffled[cut:])
    assert np.array_equal(once.counts, in_parts.counts)
    assert (once.low, once.high) == (in_parts.low, in_parts.high)


@given(tensors)
def test_every_value_lies_in_a_bin_that_counts_it(values: np.ndarray) -> None:
    histogram = histogram_of(values)
    bins = histogram.bins()
    assert bins.total == len(values)
    assert (bins.low <= bins.high).all()
    assert (np.diff(bins.low) >= 0).all()
    for value in values.astype(np.float64):
        assert ((bins.low <= value) & (value <= bins.high)).any()
    assert (bins.low[0], bins.high[-1]) == (values.min(), values.max()) == (histogram.low, histogram.high)


@given(tensors)
@settings(max_examples=30)
def test_a_bin_is_at_most_one_128th_of_its_value_wide(values: np.ndarray) -> None:
    bins = histogram_of(values).bins()
    magnitude = np.maximum(np.abs(bins.low), np.abs(bins.high))
    normal = magnitude > 1e-36
    assert (bins.high - bins.low <= magnitude / 128 * 1.0001)[normal].all()


def test_memory_does_not_grow_with_the_data() -> None:
    histogram = histogram_of(*np.random.default_rng(0).standard_normal((20, 1000)) * 1e6)
    assert histogram.counts.nbytes == 512 << 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_noticed(bad: float) -> None:
    assert histogram_of(np.array([1.0, -2.0, 0.0])).finite
    assert not histogram_of(np.array([1.0, bad, 0.0])).finite


def test_an_empty_histogram_has_no_bins() -> None:
    with pytest.raises(ValueError, match="empty"):
        histogram_of(np.empty(0)).bins()
