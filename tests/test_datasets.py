"""Sets in the layouts that they are distributed in: small real files, made here, byte for byte as their formats say."""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_artifact

from alexnet_deploy import datasets
from alexnet_deploy.cli.data import held_out
from alexnet_deploy.datasets import shards
from alexnet_deploy.datasets.matlab import structs
from alexnet_deploy.errors import DataError, PictureError
from alexnet_deploy.manifest import Preprocess
from alexnet_deploy.pictures import PictureSet
from alexnet_deploy.predictions import collect
from training.data import open_split

# The first three synsets and one inner node, with the fields of ImageNet's own meta.mat, written by scipy.io.savemat.
META_MAT = base64.b85decode(
    "O+i#lK|&xkE-)ZXK~ybfX>4U6P;6mzW^ZzBIv{Xwb7^=iAVYFxVRU6=Aa8CuAX9a2AWm;~ATlx_GBP?fIXW^lATlsAHUIzs000000000000000"
    "00000000000000000000000000000000000000000000000Bu&4*&oFs{sH2c%1E2-A=+V6fQ7OqR!t7FZ%#oY&Zq(NYq3U<AoZ$T$)kV#;r4J"
    "3GxQMs&8Q{o0K^MY?peLv*tVN_qFHrtR?_pw+TQ)jnb=NZuJBk(kqGYNar)gvEcH%0gjXShxEby)9~@SZP{&iaH9lX9_HhZO`~|k^?)Bld?~;t"
    "q3aPEjAG2b14|&)U|6^WQ=f>0B4R|DOGD&i4on&Bf<-=NCZCGt%J#K5Napu7zLCRkYV(g0%&fL;_d4C4rgOJO=RBjM@GBK?9KE;Ta1y*>4nyR{"
    "k)V8&eVG|Og?WgA0QxbWDOpgsKB=ksmd0=7@PRfqHD1|ui}26t<@o9UP`oc}$FVwBj;6D&FHSN#3Jc6U(t^*Fc?b&i-h5w&89jx^G3I271didD"
    "a`N97Tk>n#`h8IBzOby$#pM<{dH?q<^8<N)P+rRNEPv;dr&G`9D2(7J@=MeswZGN}pS1<Q4~q1GG`r(iEAq(GX=HR1#!OH#+iV{P8NR}TAOWX@"
    "dIVBlq8|EvsrSKN4!^4L4f#}Lr0BY*E9$pxAAJF&vSs)"
)
Pixels = npt.NDArray[np.uint8]


def picture(seed: int, height: int = 12, width: int = 10) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# CIFAR


def write_cifar(folder: Path, classes: int = 10, per_file: int = 20) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Returns the test pictures and their labels, as they were before they were written."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(classes)
    names = [f"class_{i}" for i in range(classes)]
    (folder / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")).write_text("\n".join(names) + "\n\n")
    of_training = ["data_batch_1.bin", "data_batch_2.bin"] if classes == 10 else ["train.bin"]
    for name in (*of_training, "test_batch.bin" if classes == 10 else "test.bin"):
        pixels = random.integers(0, 256, (per_file, 32, 32, 3), np.uint8)
        labels = np.arange(per_file) % classes
        coarse = [] if classes == 10 else [np.full((per_file, 1), 7)]
        planes = pixels.transpose(0, 3, 1, 2).reshape(per_file, -1)
        np.concatenate([*coarse, labels[:, None], planes], axis=1).astype(np.uint8).tofile(folder / name)
    return pixels, labels


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_as_its_page_describes_it(tmp_path: Path, classes: int) -> None:
    per_file = 2 * classes
    pixels, labels = write_cifar(tmp_path, classes, per_file)
    held_out = PictureSet.open(tmp_path)
    assert held_out.classes == tuple(f"class_{i}" for i in range(classes))
    np.testing.assert_array_equal(held_out.labels, labels)
    np.testing.assert_array_equal(np.stack([held_out.picture(i) for i in range(per_file)]), pixels)
    assert len(PictureSet.open(f"{tmp_path}:train")) == per_file * (2 if classes == 10 else 1)
    assert PictureSet.open(held_out.location).digest() == held_out.digest()


def test_pickled_cifar_is_refused_unopened_and_the_binary_version_named(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "was run",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DataError, match=r"pickle.*cifar-10-binary\.tar\.gz"):
        PictureSet.open(tmp_path)
    assert not (tmp_path / "was run").exists()


def test_a_class_of_cifar_without_pictures_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path, 10, 9)
    with pytest.raises(DataError, match="no pictures of class_9"):
        PictureSet.open(tmp_path)


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="class 9"):
        PictureSet.open(tmp_path)


# IDX


def idx(values: npt.NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder: Path, *, packed: bool = False, first: int = 0) -> Pixels:
    """MNIST's four files; returns the test pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 40), ("t10k", 20)):
        grey = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10 + first).astype(np.uint8)
        for name, values in ((f"{split}-images-idx3-ubyte", grey), (f"{split}-labels-idx1-ubyte", labels)):
            content = idx(values)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return grey


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_gzipped_or_not(tmp_path: Path, packed: bool) -> None:
    grey = write_idx(tmp_path, packed=packed)
    split = open_split(tmp_path)
    assert (len(split.train), len(split.validation)) == (40, 20)
    assert split.validation.classes == tuple("0123456789")
    read = np.stack([split.validation.picture(i) for i in range(20)])
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=-1))


def test_idx_labels_may_begin_at_one_and_names_may_stand_beside_them(tmp_path: Path) -> None:
    write_idx(tmp_path / "letters", first=1)
    assert PictureSet.open(tmp_path / "letters").classes == tuple(str(i) for i in range(1, 11))
    write_idx(tmp_path / "named")
    (tmp_path / "named" / "classes.txt").write_text("\n".join("abcdefghij"))
    assert PictureSet.open(tmp_path / "named").classes == tuple("abcdefghij")


@pytest.mark.parametrize("damage", ["cut", "longer", "labels cut", "no labels", "gzip cut", "huge", "too few labels"])
def test_damaged_idx_files_are_refused(tmp_path: Path, damage: str) -> None:
    write_idx(tmp_path, packed=damage == "gzip cut")
    pictures, labels = tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte"
    if damage == "cut":
        pictures.write_bytes(pictures.read_bytes()[:-1])
    elif damage == "longer":
        pictures.write_bytes(pictures.read_bytes() + b"x")
    elif damage == "labels cut":
        labels.write_bytes(labels.read_bytes()[:5])
    elif damage == "no labels":
        labels.unlink()
    elif damage == "gzip cut":
        packed = tmp_path / "t10k-images-idx3-ubyte.gz"
        packed.write_bytes(packed.read_bytes()[:-200])
    elif damage == "huge":
        pictures.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    else:
        labels.write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError):
        PictureSet.open(tmp_path)


# ImageNet

WORDNET_IDS = ("n01440764", "n02100735", "n02119789")
TRUTH = {1: "n02119789", 2: "n01440764", 3: "n02100735", 4: "n01440764"}
GROUND_TRUTH = b"1\n2\n3\n2\n"  # ILSVRC2012_IDs, as META_MAT numbers them


def write_imagenet(folder: Path, *, packed: bool, kit: str) -> Path:
    train = {name: {f"{name}_{i}.JPEG": png(10 * c + i) for i in range(2)} for c, name in enumerate(WORDNET_IDS)}
    val = {f"ILSVRC2012_val_{number:08}.JPEG": png(100 + number) for number in TRUTH}
    pictures = folder / "ILSVRC" / "Data" / "CLS-LOC" if kit == "kaggle" else folder
    if packed:
        write_tar(folder / "ILSVRC2012_img_train.tar", {f"{name}.tar": tar_bytes(files) for name, files in train.items()})
        write_tar(folder / "ILSVRC2012_img_val.tar", val)
    else:
        for name, files in {**{f"train/{name}": files for name, files in train.items()}, "val": val}.items():
            (pictures / name).mkdir(parents=True)
            for file, content in files.items():
                (pictures / name / file).write_bytes(content)
    of_kit = {"meta.mat": META_MAT, "ILSVRC2012_validation_ground_truth.txt": GROUND_TRUTH}
    if kit == "tar":
        with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
            for file, content in of_kit.items():
                member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    elif kit == "unpacked":
        (folder / "ILSVRC2012_devkit_t12" / "data").mkdir(parents=True)
        for file, content in of_kit.items():
            (folder / "ILSVRC2012_devkit_t12" / "data" / file).write_bytes(content)
    elif kit == "kaggle":
        rows = [f"ILSVRC2012_val_{number:08},{name} 1 2 3 4 {name} 5 6 7 8 " for number, name in reversed(TRUTH.items())]
        (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    return folder


@pytest.mark.parametrize(("packed", "kit"), [(True, "tar"), (True, "unpacked"), (False, "tar"), (False, "kaggle")])
def test_imagenet_is_read_as_it_is_distributed(tmp_path: Path, packed: bool, kit: str) -> None:
    split = open_split(write_imagenet(tmp_path, packed=packed, kit=kit))
    assert split.train.classes == split.validation.classes == WORDNET_IDS
    assert [WORDNET_IDS[label] for label in split.validation.labels] == list(TRUTH.values())
    for i, number in enumerate(TRUTH):
        np.testing.assert_array_equal(split.validation.picture(i), picture(100 + number))
    assert split.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(split.train.picture(5), picture(21))


def test_without_the_development_kit_it_is_asked_for(tmp_path: Path) -> None:
    write_imagenet(tmp_path, packed=True, kit="none")
    with pytest.raises(DataError, match=r"ILSVRC2012_devkit_t12\.tar\.gz"):
        open_split(tmp_path)


@pytest.mark.parametrize("table", ["ImageId\nx\n", "", "ImageId,PredictionString\nILSVRC2012_val_x,n01440764 1\n"])
def test_a_table_of_classes_that_is_amiss_is_refused(tmp_path: Path, table: str) -> None:
    write_imagenet(tmp_path, packed=False, kit="kaggle")
    (tmp_path / "LOC_val_solution.csv").write_text(table)
    with pytest.raises(DataError, match="validation picture"):
        open_split(tmp_path)


def test_the_synsets_of_a_matlab_file_are_read() -> None:
    found = structs(META_MAT, "meta.mat")
    assert [(s["ILSVRC2012_ID"], s["WNID"]) for s in found[:2]] == [(1.0, "n02119789"), (2.0, "n01440764")]
    assert found[0]["words"] == "kit fox, Vulpes macrotis"
    assert found[3]["num_children"] == 2.0


@given(st.integers(0, len(META_MAT) - 1), st.binary(max_size=20))
def test_a_damaged_matlab_file_is_refused_or_read(at: int, other: bytes) -> None:
    for content in (META_MAT[:at], META_MAT[:at] + other + META_MAT[at + len(other) :]):
        with suppress(DataError):
            structs(content, "meta.mat")


# WebDataset


def sample_files(count: int, *, first: int = 0) -> dict[str, bytes]:
    files = {}
    for i in range(first, first + count):
        files[f"{i:06}.png"] = png(i)
        files[f"{i:06}.cls"] = str(i % 3).encode()
    return files


def test_shards_are_read_in_place(tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / f"photos-{i:02}.tar", sample_files(4, first=4 * i))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    for location in (str(tmp_path), str(tmp_path / "photos-{00..02}.tar"), str(tmp_path / "photos-{00,01,02}.tar")):
        pictures = PictureSet.open(location)
        assert pictures.classes == ("ant", "bee", "cat")
        assert pictures.labels.tolist() == [i % 3 for i in range(12)]
        np.testing.assert_array_equal(pictures.picture(7), picture(7))
    assert len(PictureSet.open(tmp_path / "photos-01.tar")) == 4


def test_a_folder_of_training_and_validation_shards_is_divided(tmp_path: Path) -> None:
    write_tar(tmp_path / "imagenet-train-0.tar", sample_files(9))
    write_tar(tmp_path / "imagenet-val-0.tar", sample_files(3, first=9))
    split = open_split(tmp_path)
    assert (len(split.train), len(split.validation)) == (9, 3)


def test_labels_may_be_names_or_json_or_the_folder(tmp_path: Path) -> None:
    by_name = {"a.png": png(0), "a.cls": b"dog\n", "b.png": png(1), "b.cls": b"ant"}
    by_json = {"a.json": b'{"label": "dog"}', "a.png": png(0), "b.png": png(1), "b.json": b'{"label": "ant", "by": 3}'}
    by_folder = {"photos/dog/a.png": png(0), "photos/ant/b.png": png(1)}
    for name, files in {"name": by_name, "json": by_json, "folder": by_folder}.items():
        pictures = PictureSet.open(write_tar(tmp_path / f"{name}.tar", files))
        assert (pictures.classes, pictures.labels.tolist()) == (("ant", "dog"), [1, 0])
    assert not PictureSet.open(write_tar(tmp_path / "none.tar", {"a.png": png(0), "b.jpg": png(1)})).labelled


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.png": b"x", "a.cls": b"0", "b.png": b"x"}, "some have none"),
        ({"a.png": b"x", "a.json": b"{}"}, "names no class"),
        ({"a.png": b"x", "a.json": b"[[[["}, "names no class"),
        ({"a.png": b"x", "a.cls": b"\xff"}, "names no class"),
        ({"a.cls": b"0", "b.txt": b"x"}, "holds no pictures"),
    ],
)
def test_shards_whose_labels_are_amiss_are_refused(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        PictureSet.open(write_tar(tmp_path / "s.tar", files))


def test_a_cut_shard_is_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "s.tar", sample_files(3))
    whole.write_bytes(whole.read_bytes()[:2500])
    with pytest.raises(DataError, match="whole, uncompressed"):
        PictureSet.open(whole)


def test_a_broken_picture_in_a_shard_is_named(tmp_path: Path) -> None:
    pictures = PictureSet.open(write_tar(tmp_path / "s.tar", {**sample_files(2), "x.png": b"no", "x.cls": b"2"}))
    with pytest.raises(PictureError, match=r"s\.tar/x\.png"):
        list(pictures.batches(Preprocess(height=8, width=8), 4))


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..10}.tar", ["8.tar", "9.tar", "10.tar"]),
        ("{08..10}.tar", ["08.tar", "09.tar", "10.tar"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
    ],
)
def test_patterns_stand_for_shards(pattern: str, expanded: list[str]) -> None:
    assert shards.expand(pattern) == expanded


@pytest.mark.parametrize("pattern", ["{0..9.tar", "a}.tar", "{0..99999999}.tar", "{0..999}{0..999}{0..9}.tar"])
def test_patterns_that_make_no_sense_are_refused(pattern: str) -> None:
    with pytest.raises(DataError):
        shards.expand(pattern)


# Which layout it is


def test_a_place_in_no_layout_is_told_all_layouts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"docs/howto/data\.md"):
        PictureSet.open(tmp_path)
    with pytest.raises(DataError) as caught:
        open_split(tmp_path)
    assert all(name in str(caught.value) for name in ("CLASS/*.jpg", "ImageNet", "CIFAR", "IDX", "WebDataset"))


def test_a_packed_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="tar xf"):
        PictureSet.open(tmp_path / "cifar-10-binary.tar.gz")


def test_a_divided_folder_opens_as_its_test_pictures_and_is_predicted_whole(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / split / name / f"{i}.png").write_bytes(png(i))
    assert len(PictureSet.open(tmp_path)) == 4
    assert PictureSet.open(f"{tmp_path}:train").location == str(tmp_path / "train")
    assert PictureSet.open_training(tmp_path).location == str(tmp_path / "train")
    assert len(PictureSet.open_training(f"{tmp_path}:test")) == 4
    assert PictureSet.open_training("demo").location == "demo:train"
    assert len(list(collect([str(tmp_path)]))) == 10
    assert len(PictureSet.open(f"{tmp_path / 'train'}:test")) == 2  # a folder that is not divided is when it is asked for parts


def test_a_part_that_a_divided_set_lacks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train/ant").mkdir(parents=True)
    (tmp_path / "train/ant/0.png").write_bytes(png(0))
    with pytest.raises(DataError, match="no part test"):
        PictureSet.open(f"{tmp_path}:test")


def test_a_command_measures_on_what_training_held_out(tmp_path: Path) -> None:
    for folder, count in (("photos", 20), ("others", 3)):
        for name in ("ant", "bee"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / folder / name / f"{i}.png").write_bytes(png(i))
    photos, others = (str(tmp_path / name) for name in ("photos", "others"))
    manifest = tiny_artifact(tmp_path / "net.onnx", held_out=f"{photos}:test").manifest
    assert len(held_out(None, manifest)) == 4
    assert held_out(photos, manifest).names == held_out(None, manifest).names  # the folder it was trained on
    assert len(held_out(others, manifest)) == 6
    shutil.rmtree(photos)
    with pytest.raises(DataError, match=r"are not there: .*photos does not exist"):
        held_out(None, manifest)
    with pytest.raises(DataError, match="no pictures to compare"):
        held_out(None, msgspec.structs.replace(manifest, held_out=""))


def test_pictures_without_classes_have_no_parts(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    with pytest.raises(DataError, match="no class folders"):
        PictureSet.open(f"{tmp_path}:train")


def test_validation_pictures_may_be_elsewhere_and_in_another_layout(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").write_bytes(png(0))
    validation = write_tar(tmp_path / "held-out.tar", {"a.png": png(5), "a.cls": b"ant", "b.png": png(6), "b.cls": b"bee"})
    with pytest.raises(DataError, match="no validation pictures"):
        open_split(tmp_path)
    split = open_split(tmp_path, str(validation))
    assert (len(split.train), split.validation.classes) == (2, ("ant", "bee"))


def test_sets_of_any_layout_are_told_from_picture_files(tmp_path: Path) -> None:
    write_idx(tmp_path)
    assert datasets.is_set(f"{tmp_path}:train")
    assert datasets.is_set("photos-{0..9}.tar")
    assert not datasets.is_set("photo.jpg")
    names = [named.name for named in collect([f"{tmp_path}:test"])]
    assert names[:2] == ["test/0/00000", "test/1/00001"]
    assert json.dumps(names)
