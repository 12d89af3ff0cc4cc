from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.errors import DataError, DataWarning, PictureError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import PictureSet

RECIPE = Preprocess(height=8, width=8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.new("RGB", (10 + k, 12), (index * 100, k * 50, 0)).save(tmp_path / name / f"{k}.png")
    return tmp_path


def test_a_folder_has_one_class_a_subfolder(photos: Path) -> None:
    pictures = PictureSet.open(photos)
    assert pictures.classes == ("cat", "dog")
    assert pictures.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pictures.names[0] == "cat/0.png"


def test_a_flat_folder_is_unlabelled(photos: Path) -> None:
    pictures = PictureSet.open(photos / "cat")
    assert not pictures.labelled
    assert pictures.labels.tolist() == [-1, -1, -1]


def test_pictures_beside_the_class_folders_are_said_to_be_left_out(photos: Path) -> None:
    for name in ("stray.png", "other.JPG", "notes.txt"):
        (photos / name).write_bytes(b"")
    with pytest.warns(DataWarning, match=f"beside the folders of {photos} are left out, 2 of them"):
        assert len(PictureSet.open(photos)) == 6


def test_pictures_beside_train_and_val_are_said_to_be_left_out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    divided = tmp_path_factory.mktemp("divided")
    for part in ("train", "val"):
        shutil.copytree(photos, divided / part)
    shutil.copy(photos / "cat/0.png", divided)
    with pytest.warns(DataWarning, match=f"beside the folders of {divided} are left out, 1 of them"):
        assert len(PictureSet.open(divided)) == 6


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_where_nothing_is_left_out(photos: Path) -> None:
    (photos / "notes.txt").write_bytes(b"")
    assert len(PictureSet.open(photos)) == 6
    assert len(PictureSet.open(photos / "cat")) == 3


def test_the_last_batch_may_be_shorter(photos: Path) -> None:
    shapes = [batch.shape for batch, _ in PictureSet.open(photos).batches(RECIPE, 4)]
    assert shapes == [(4, 3, 8, 8), (2, 3, 8, 8)]
    assert [len(batch) for batch, _ in PictureSet.open(photos).batches(RECIPE, 10**30)] == [6]


def test_a_missing_folder_an_empty_one_and_an_empty_class_are_refused(photos: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        PictureSet.open(photos / "birds")
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        PictureSet.open(photos / "empty")
    with pytest.raises(DataError, match="class folder"):
        PictureSet.open(photos)


def test_a_broken_picture_is_named(photos: Path) -> None:
    (photos / "cat" / "1.png").write_bytes(b"broken")
    with pytest.raises(PictureError, match=r"1\.png"):
        list(PictureSet.open(photos).batches(RECIPE, 4))


def test_the_digest_is_of_content_not_of_names_or_order(photos: Path) -> None:
    pictures = PictureSet.open(photos)
    digest = pictures.digest()
    assert pictures.subset([5, 4, 3, 2, 1, 0]).digest() == digest
    (photos / "cat" / "0.png").rename(photos / "cat" / "z.png")
    assert PictureSet.open(photos).digest() == digest
    Image.new("RGB", (3, 3)).save(photos / "cat" / "z.png")
    assert PictureSet.open(photos).digest() != digest


def test_of_a_large_set_all_sizes_and_some_content_are_hashed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_deploy.pictures._MOST_HASHED_BYTES", 100)
    monkeypatch.setattr("alexnet_deploy.pictures._SPREAD", 2)
    pictures = PictureSet.open(photos)
    digest = pictures.digest()
    read: list[Path] = []
    monkeypatch.setattr("alexnet_deploy.pictures.file_sha256", lambda path: read.append(path) or "0" * 64)
    pictures.digest()
    assert [path.name for path in read] == ["0.png", "2.png"]
    monkeypatch.undo()
    monkeypatch.setattr("alexnet_deploy.pictures._MOST_HASHED_BYTES", 100)
    monkeypatch.setattr("alexnet_deploy.pictures._SPREAD", 2)
    assert pictures.digest() == digest
    with (photos / "cat" / "1.png").open("ab") as file:
        file.write(b"more")
    assert pictures.digest() != digest


@pytest.mark.parametrize(("split", "count"), [("train", 5000), ("test", 1000)])
def test_the_demo_set_is_balanced(split: str, count: int) -> None:
    pictures = PictureSet.open(f"demo:{split}")
    assert len(pictures) == count
    assert np.bincount(pictures.labels).tolist() == [count // 10] * 10
    assert pictures.picture(0).shape == (28, 28, 3)


def test_there_is_no_other_demo_split() -> None:
    with pytest.raises(DataError, match="demo:train or demo:test"):
        PictureSet.open("demo:validation")


def test_train_and_test_pictures_do_not_overlap() -> None:
    assert not set(PictureSet.open("demo:train").content_hashes()) & set(PictureSet.open("demo:test").content_hashes())


@given(count=st.integers(1, 1000), seed=st.integers(0, 2**32))
def test_a_sample_is_spread_evenly_and_has_no_repeats(count: int, seed: int) -> None:
    pictures = PictureSet.open("demo:test")
    sample = pictures.sample(count, seed)
    assert len(sample) == len(set(sample.names)) == count
    per_class = np.bincount(sample.labels, minlength=10)
    assert per_class.max() - per_class.min() <= 1


def test_a_sample_depends_on_nothing_but_its_seed() -> None:
    pictures = PictureSet.open("demo:test")
    assert list(pictures.sample(50, 1).names) == list(pictures.sample(50, 1).names)
    assert list(pictures.sample(50, 1).names) != list(pictures.sample(50, 2).names)
