"""Each method against a plain reference that keeps every value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import InputError
from alexnet_deploy.quantization.histogram import Histogram
from alexnet_deploy.quantization.ranges import AUTO_CANDIDATES, choose_range, entropy_threshold, method_name, mse_threshold

ONE_BIN = 1 / 128


def samples(kind: str, seed: int, size: int = 20_000) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = {
        "rectified": lambda: np.maximum(random.standard_normal(size), 0),
        "normal": lambda: random.standard_normal(size),
        "long tail": lambda: np.abs(random.standard_normal(size)) ** 3,
        "two-sided tail": lambda: random.laplace(size=size),
        "shifted": lambda: random.standard_normal(size) + 3,
        "discrete": lambda: random.integers(-20, 236, size) / 255,
    }[kind]()
    return values.astype(np.float32)


KINDS = ("rectified", "normal", "long tail", "two-sided tail", "shifted", "discrete")
distributions = st.builds(samples, st.sampled_from(KINDS), st.integers(0, 10_000))


def collected(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values, 7):
        histogram.add(part)
    return histogram


def quantisation_error(values: np.ndarray, threshold: float, levels: int = 127) -> float:
    step = threshold / levels
    return float(np.mean((np.clip(np.rint(values / step), -levels, levels) * step - values.astype(np.float64)) ** 2))


@given(distributions)
@settings(max_examples=25, deadline=None)
def test_minmax_is_the_smallest_and_largest_value(values: np.ndarray) -> None:
    low, high = choose_range(collected(values), "minmax")
    assert low == pytest.approx(min(values.min(), 0), rel=2**-12)
    assert high == pytest.approx(max(values.max(), 0), rel=2**-12)


@given(distributions, st.sampled_from([99.0, 99.9, 99.99]))
@settings(max_examples=40, deadline=None)
def test_percentile_agrees_with_the_sorted_values(values: np.ndarray, share: float) -> None:
    low, high = choose_range(collected(values), f"percentile-{share}")
    two_sided = values.min() < 0 < values.max()
    cut = (1 - share / 100) / (2 if two_sided else 1)
    ordered = np.sort(values).astype(np.float64)
    rank = cut * len(ordered)

    def between(position: float) -> tuple[float, float]:
        least, most = ordered[max(int(position) - 1, 0)], ordered[min(int(position) + 1, len(ordered) - 1)]
        return least - abs(least) * 2 * ONE_BIN, most + abs(most) * 2 * ONE_BIN

    least, most = between(len(ordered) - rank)
    assert least <= high <= most
    if values.min() < 0:
        least, most = between(rank)
        assert min(least, 0) <= low <= min(most, 0)  # a range always reaches to zero
    else:
        assert low == 0


@given(distributions, st.sampled_from([127, 255]))
@settings(max_examples=20, deadline=None)
def test_mse_is_as_good_as_an_exhaustive_search_over_all_values(values: np.ndarray, levels: int) -> None:
    chosen = mse_threshold(collected(values).bins(), levels)
    largest = np.abs(values).max()
    best = min(quantisation_error(values, t, levels) for t in np.linspace(largest / 60, largest, 240))
    assert quantisation_error(values, chosen, levels) <= best * 1.06


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["rectified", "normal", "two-sided tail"])
def test_entropy_is_near_the_least_divergence_over_all_values(kind: str, seed: int) -> None:
    values = samples(kind, seed, 200_000)
    chosen = entropy_threshold(collected(values).bins())
    thresholds, divergences = reference_divergences(values)
    spread = divergences.max() - divergences.min()
    assert np.interp(chosen, thresholds, divergences) <= divergences.min() + 0.15 * spread


def reference_divergences(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Migacz 2017, written down loop by loop on 2,048 exact bins; exact zeros left out."""
    magnitudes = np.abs(values[values != 0])
    counts, edges = np.histogram(magnitudes, bins=2048, range=(0, magnitudes.max()))
    thresholds, divergences = [], []
    for kept in range(128, 2049, 32):
        reference = counts[:kept].astype(float)
        reference[-1] += counts[kept:].sum()
        candidate = np.zeros(kept)
        for level in range(128):
            members = [i for i in range(kept) if i * 128 // kept == level and counts[i] > 0]
            if members:
                candidate[members] = counts[members].sum() / len(members)
        p, q = reference / reference.sum(), candidate / candidate.sum()
        seen = p > 0
        divergences.append(float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))).sum()))
        thresholds.append(edges[kept])
    return np.array(thresholds), np.array(divergences)


@given(distributions, st.sampled_from(AUTO_CANDIDATES))
@settings(max_examples=40, deadline=None)
def test_a_range_holds_zero_and_lies_within_what_was_seen(values: np.ndarray, method: str) -> None:
    low, high = choose_range(collected(values), method)
    assert low <= 0 <= high
    assert low < high
    assert low >= min(values.min(), 0) * (1 + 2**-11)
    assert high <= max(values.max(), 0) * (1 + 2**-11)


@pytest.mark.parametrize("method", AUTO_CANDIDATES)
def test_a_tensor_that_is_always_zero_still_has_a_range(method: str) -> None:
    low, high = choose_range(collected(np.zeros(100, np.float32)), method)
    assert low <= 0 < high


@pytest.mark.parametrize("method", ["percentile-99.9", "percentile-99.99"])
def test_one_outlier_among_many_does_not_stretch_the_range(method: str) -> None:
    values = samples("rectified", 0, 100_000)
    values[17] = 1000.0
    assert choose_range(collected(values), method)[1] < 500


def test_percentile_without_a_share_is_99_99() -> None:
    assert method_name("percentile") == "percentile-99.99"


@pytest.mark.parametrize("text", ["", "max", "percentile-", "percentile-40", "percentile-100.5", "percentile-1e2", "auto"])
def test_an_unknown_method_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no calibration method"):
        method_name(text)
