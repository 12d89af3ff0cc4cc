from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.artifact import Artifact, manifest_path, write_artifact
from alexnet_deploy.errors import AlexnetDeployError, ArtifactCorrupt, ArtifactMissing, InputError, ManifestError
from alexnet_deploy.files import replacing
from alexnet_deploy.manifest import FileReference, Manifest, Preprocess
from alexnet_deploy.types import BatchRange, TensorSpec


def a_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "kind": "onnx",
        "input": TensorSpec("input", "float32", (None, 3, 64, 64)),
        "output": TensorSpec("logits", "float32", (None, 2)),
        "preprocess": Preprocess(height=64, width=64),
        "batch": BatchRange(1, 8, 64),
        "labels": ("cat", "dog"),
    }
    return Manifest(**{**fields, **changes})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_artifact(tmp_path / "model.onnx", a_manifest(), b"the graph")


def test_an_artifact_reads_back_as_it_was_written(artifact: Artifact) -> None:
    assert Artifact.open(artifact.path) == artifact
    assert artifact.manifest.size_bytes == 9


def test_a_changed_artifact_is_refused(artifact: Artifact) -> None:
    artifact.path.write_bytes(b"The graph")
    with pytest.raises(ArtifactCorrupt, match="SHA-256"):
        Artifact.open(artifact.path)


def test_a_truncated_artifact_is_refused_by_its_size(artifact: Artifact) -> None:
    artifact.path.write_bytes(b"the")
    with pytest.raises(ArtifactCorrupt, match="3 bytes"):
        Artifact.open(artifact.path)


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match=r"nowhere\.onnx does not exist"):
        Artifact.open(tmp_path / "nowhere.onnx")


def test_a_missing_artifact_lists_its_neighbours(artifact: Artifact) -> None:
    with pytest.raises(ArtifactMissing, match=r"expected one of model\.onnx"):
        Artifact.open(artifact.path.with_name("modle.onnx"))


def test_a_missing_manifest_is_named(artifact: Artifact) -> None:
    manifest_path(artifact.path).unlink()
    with pytest.raises(ManifestError, match="has no manifest"):
        Artifact.open(artifact.path)


def test_a_manifest_of_another_file_is_refused(artifact: Artifact) -> None:
    other = artifact.path.with_name("other.onnx")
    artifact.path.rename(other)
    manifest_path(artifact.path).rename(manifest_path(other))
    with pytest.raises(ManifestError, match=r"describes 'model\.onnx'"):
        Artifact.open(other)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "alexnet-deploy/99"},
        {"kind": "virus"},
        {"labels": ["only one"]},
        {"batch": {"min": 8, "opt": 1, "max": 4}},
        {"preprocess": {"height": 10**9, "width": 64}},
        {"preprocess": {"height": 64, "width": 64, "std": [0, 1, 1]}},
        {"preprocess": {"height": 64, "width": 64, "mean": [0.5]}},
        {"twin": {"file": "../../etc/passwd", "sha256": "0" * 64}},
        {"twin": {"file": "/etc/passwd", "sha256": "0" * 64}},
        {"twin": {"file": "twin.onnx", "sha256": "short"}},
        {"input": {"name": "x", "dtype": "float32", "shape": "many"}},
        {"output": {"name": "x", "dtype": "float32", "shape": []}},
        {"tuned": {"backend": "openvino", "device": "cpu", "threads": 10**6, "batch": 1, "latency_ms": 1, "cpu": "", "cores": 1}},
        {"kind": "plan"},
    ],
)
def test_a_manifest_outside_its_schema_is_refused(artifact: Artifact, change: dict[str, object]) -> None:
    where = manifest_path(artifact.path)
    where.write_text(json.dumps({**json.loads(where.read_text()), **change}))
    with pytest.raises(ManifestError, match="is no manifest"):
        Artifact.open(artifact.path)


@given(noise=st.binary(max_size=64), position=st.floats(0, 1))
def test_a_damaged_manifest_is_an_error_of_ours_or_still_valid(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, position: float
) -> None:
    artifact = write_artifact(tmp_path_factory.mktemp("fuzz") / "model.onnx", a_manifest(), b"the graph")
    where = manifest_path(artifact.path)
    raw = where.read_bytes()
    cut = int(position * len(raw))
    where.write_bytes(raw[:cut] + noise + raw[cut + len(noise) :])
    with contextlib.suppress(AlexnetDeployError):
        Artifact.open(artifact.path)


def test_a_deeply_nested_manifest_is_refused(artifact: Artifact) -> None:
    manifest_path(artifact.path).write_text("[" * 100_000)
    with pytest.raises(ManifestError):
        Artifact.open(artifact.path)


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError):
        write_artifact(tmp_path / "model.onnx", a_manifest(), fail)
    assert list(tmp_path.iterdir()) == []


def test_an_older_artifact_survives_a_write_that_fails(artifact: Artifact) -> None:
    with pytest.raises(RuntimeError), replacing(artifact.path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert Artifact.open(artifact.path) == artifact


def test_a_replaced_artifact_with_its_old_manifest_is_refused(artifact: Artifact) -> None:
    """What a kill between the two writes leaves behind is refused, not half-believed."""
    with replacing(artifact.path) as temporary:
        temporary.write_bytes(b"the grape")
    with pytest.raises(ArtifactCorrupt):
        Artifact.open(artifact.path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactMissing, match="cannot write in"):
        write_artifact(tmp_path / "file" / "model.onnx", a_manifest(), b"")


def test_a_twin_must_be_the_one_that_was_named(tmp_path: Path) -> None:
    twin = write_artifact(tmp_path / "twin.onnx", a_manifest(), b"twin")
    named = FileReference(file="twin.onnx", sha256=twin.manifest.sha256)
    artifact = write_artifact(tmp_path / "model.onnx", a_manifest(twin=named), b"graph")
    assert artifact.twin() == twin
    write_artifact(tmp_path / "twin.onnx", a_manifest(), b"another")
    with pytest.raises(ArtifactCorrupt, match="not the twin"):
        artifact.twin()


SMALLEST: dict[str, Any] = {"height": 1, "width": 1, "resize": 1}
LARGEST: dict[str, Any] = {"height": 8192, "width": 8192, "resize": 16384}
GREY: dict[str, Any] = {"channel_order": "grey", "mean": (0.5,), "std": (0.5,)}


@pytest.mark.parametrize("fields", [SMALLEST, LARGEST, {**SMALLEST, **GREY}])
def test_recipes_reach_from_one_pixel_to_8192(fields: dict[str, Any]) -> None:
    assert Preprocess(**fields).height == fields["height"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0},
        {"width": 0},
        {"resize": 0},
        {"height": 8193, "resize": None},
        {"width": 8193, "resize": None},
        {"height": 2},
        {"width": 2},
        {"resize": 16385},
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"mean": (0.0, 1e9, 0.0)},
        {"mean": (0.0, float("nan"), 0.0)},
        {"std": (1.0, 0.0, 1.0)},
        {"std": (1.0, -1.0, 1.0)},
        {"channel_order": "grey"},
        {"mean": (0.5,), "std": (0.5,)},
    ],
)
def test_a_recipe_that_nobody_could_carry_out_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"pixels|resize|mean"):
        Preprocess(**{**SMALLEST, **wrong})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "x" * 256, "\udcff" * 300])
def test_a_manifest_names_files_of_its_own_folder_only(name: str) -> None:
    with pytest.raises(ValueError, match="is not a plain file name"):
        FileReference(file=name, sha256="0" * 64)
    assert FileReference(file="x" * 255, sha256="0" * 64).file == "x" * 255


def test_a_manifest_too_large_to_be_one_is_not_read(artifact: Artifact) -> None:
    with manifest_path(artifact.path).open("ab") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(ManifestError, match="is over 16 MB"):
        Artifact.open(artifact.path)


def test_a_file_that_goes_before_it_is_hashed_is_missing(artifact: Artifact) -> None:
    artifact.path.unlink()
    with pytest.raises(ArtifactMissing, match="cannot be read: No such file"):
        artifact.check_hash()


def test_a_recipes_digest_is_that_of_earlier_versions() -> None:
    """Manifests and calibration caches hold it."""
    digest = "efb202cc0f1755051a925271839bb6c835e6f008c5f2e4943aaa35e35c961f56"
    assert Preprocess(height=224, width=224, resize=256).digest() == digest


def test_recipes_that_differ_have_different_digests() -> None:
    recipe = Preprocess(height=64, width=64)
    assert recipe.digest() == Preprocess(height=64, width=64).digest()
    assert recipe.digest() != Preprocess(height=64, width=64, scale=1.0).digest()


def test_an_error_survives_pickling() -> None:
    """Worker processes hand errors back to their parent through pickle; ours arrive whole."""
    import pickle

    error = ArtifactCorrupt("it broke", expected="peace", fix="mend it")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy)) == (ArtifactCorrupt, "it broke; expected peace. Try: mend it")


def test_a_file_name_longer_than_a_name_may_be_is_refused() -> None:
    """Found by fuzzing plans: the system's own error came through when such a twin was looked for."""
    with pytest.raises(ValueError, match="is not a plain file name"):
        FileReference(file="x" * 300, sha256="0" * 64)


@pytest.mark.skipif(os.name != "posix", reason="names are text elsewhere")
def test_a_name_that_the_manifest_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no UTF-8"):
        write_artifact(tmp_path / os.fsdecode(b"\xff.onnx"), a_manifest(), b"graph")
    assert not any(tmp_path.iterdir())
