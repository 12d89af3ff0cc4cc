"""20,000 predictions, 200 open and close, 8 threads with 2,000 calls each, on each CPU engine."""

from __future__ import annotations

import pytest

from tests.test_endurance import check_growth, endure


@pytest.mark.parametrize(("kind", "count"), [("predictions", 20_000), ("openings", 200)])
def test_nothing_grows_and_nothing_changes(kind: str, count: int) -> None:
    check_growth(endure(kind, count))


def test_8_threads_with_2000_calls_each_get_the_single_threads_answers() -> None:
    for found in endure("threads", 8, 2000).values():
        assert found == {"wrong": 0, "calls": 16_000}
