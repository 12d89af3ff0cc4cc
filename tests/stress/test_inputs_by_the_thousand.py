"""The long run of tests/test_fuzz_inputs.py: 10,000 pictures and 10,000 batches, others each time $FUZZ_SEED is set."""

from __future__ import annotations

import os

from tests.test_fuzz_inputs import fuzz

COUNT = 10_000
START = int(os.environ.get("FUZZ_SEED", "1")) * 1_000_000


def test_damaged_pictures_by_the_thousand() -> None:
    fuzz("pictures", START, COUNT)


def test_absurd_batches_by_the_thousand() -> None:
    fuzz("batches", START, COUNT)
