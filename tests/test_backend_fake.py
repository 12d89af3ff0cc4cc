"""The backend for users' own tests."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.fake import write_fake
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange
from tests.conformance import Conformance


class TestFake(Conformance):
    backend = "fake"
    tolerance: ClassVar[float] = 0.0

    @staticmethod
    def make_artifact(path_without_suffix: Path) -> Artifact:
        return write_fake(path_without_suffix.with_suffix(".onnx"), height=8, width=8, batch=BatchRange(1, 4, 8))

    # A fake engine does not look into its file, so that a truncated one is found by its hash only.
    test_a_truncated_file_is_refused_with_and_without_its_manifest = None  # type: ignore[assignment]


def test_it_answers_differently_for_different_pictures_and_names_labels(tmp_path: Path) -> None:
    artifact = write_fake(tmp_path / "m.plan", labels=("cat", "dog"), height=8, width=8)
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    with Runtime(artifact.path, backend="fake") as runtime:
        found = {answer[0].label for answer in runtime.classify(pictures)}
    assert found == {"cat", "dog"}
