"""Packages: moved, checked, run; and whatever is wrong with one is found before anything of it is loaded."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.backends.fake import write_fake
from alexnet_deploy.cli import main
from alexnet_deploy.errors import ArtifactCorrupt, ArtifactError, InputError
from alexnet_deploy.manifest import FileReference
from alexnet_deploy.package import open_artifact, open_package, reading, write_package
from alexnet_deploy.package.layout import SIGNATURE, SUMS
from alexnet_deploy.runtime import Runtime
from tests.patience import PATIENCE_S

BATCH = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALEXNET_DEPLOY_TRUST", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_fake(tmp_path / "made" / "shoes.onnx", height=16, width=16)


@pytest.fixture
def plan(tmp_path: Path) -> Artifact:
    twin = write_fake(tmp_path / "made" / "twin.onnx", height=16, width=16)
    return write_fake(
        tmp_path / "made" / "shoes.plan", height=16, width=16, twin=FileReference(file="twin.onnx", sha256=twin.manifest.sha256)
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private and a public key, made as the help says."""
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "key.pem", folder / "trust.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


def rewritten(package: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The package with other contents."""
    with zipfile.ZipFile(package) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(package, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return package


def test_a_package_that_was_moved_runs_as_its_artifact_does(artifact: Artifact, tmp_path: Path) -> None:
    with Runtime(artifact.path, backend="fake") as runtime:
        expected = runtime.predict(BATCH)
    write_package([artifact], tmp_path / "model.zip")
    moved = shutil.move(tmp_path / "model.zip", tmp_path / "elsewhere.zip")
    shutil.rmtree(artifact.path.parent)
    with Runtime(moved, backend="fake") as runtime:
        np.testing.assert_array_equal(runtime.predict(BATCH), expected)
        assert runtime.manifest.labels == artifact.manifest.labels


def test_a_plan_takes_its_twin_and_its_labels_along(plan: Artifact, tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("free")
    report = write_package([plan], tmp_path / "model.zip", licence=tmp_path / "LICENSE.txt")
    assert set(report.files) == {
        "package.json", "labels.txt", "LICENSE", "SHA256SUMS",
        "shoes.plan", "shoes.plan.json", "twin.onnx", "twin.onnx.json",
    }  # fmt: skip
    opened = open_package(tmp_path / "model.zip")
    assert opened.path.name == "shoes.plan"
    assert opened.twin() is not None


def test_the_list_is_one_that_sha256sum_checks(plan: Artifact, tmp_path: Path) -> None:
    write_package([plan], tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path / "by hand")
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path / "by hand", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_signature_is_one_that_openssl_checks(artifact: Artifact, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    write_package([artifact], tmp_path / "model.zip", sign=keys[0])
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path)
    words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin", "-in", SUMS, "-sigfile", SIGNATURE]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True).returncode == 0


def test_packing_twice_gives_the_same_bytes(artifact: Artifact, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    first = write_package([artifact], tmp_path / "a.zip", sign=keys[0])
    second = write_package([artifact], tmp_path / "b.zip", sign=keys[0])
    assert first.sha256 == second.sha256


def test_of_several_artifacts_the_first_runs_and_each_can_be_named(artifact: Artifact, plan: Artifact, tmp_path: Path) -> None:
    write_package([plan, artifact], tmp_path / "model.zip")
    assert open_package(tmp_path / "model.zip").path.name == "shoes.plan"
    assert open_package(tmp_path / "model.zip", name="shoes.onnx").path.name == "shoes.onnx"
    with pytest.raises(InputError, match=r"one of shoes\.plan, shoes\.onnx"):
        open_package(tmp_path / "model.zip", name="twin.onnx")


def test_a_trusted_signature_is_asked_for_and_found(artifact: Artifact, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    write_package([artifact], tmp_path / "signed.zip", sign=keys[0])
    write_package([artifact], tmp_path / "plain.zip")
    assert open_package(tmp_path / "signed.zip", trust=keys[1]).manifest == artifact.manifest
    with pytest.raises(ArtifactCorrupt, match="is not signed"):
        open_package(tmp_path / "plain.zip", trust=keys[1])


def test_a_signature_is_not_asked_in_vain_of_what_can_have_none(artifact: Artifact, keys: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="is no package: nobody can have signed it"):
        Runtime(artifact.path, backend="fake", trust=keys[1])


def test_the_environment_can_ask_for_the_signature(
    artifact: Artifact, tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package([artifact], tmp_path / "plain.zip")
    open_package(tmp_path / "plain.zip")
    monkeypatch.setenv("ALEXNET_DEPLOY_TRUST", str(keys[1]))
    with pytest.raises(ArtifactCorrupt, match="is not signed"):
        Runtime(tmp_path / "plain.zip", backend="fake")
    write_package([artifact], tmp_path / "signed.zip", sign=keys[0])
    monkeypatch.setenv("ALEXNET_DEPLOY_TRUST", str(tmp_path / "no key at all.pem"))
    assert open_package(tmp_path / "signed.zip", trust=keys[1]).manifest == artifact.manifest  # who is asked for wins


def with_new_sums(contents: dict[str, bytes]) -> None:
    names = sorted(set(contents) - {SUMS, SIGNATURE})
    contents[SUMS] = "".join(f"{sha256(contents[n]).hexdigest()}  {n}\n" for n in names).encode()


@pytest.mark.parametrize("name", ["package.json", "labels.txt", "shoes.plan", "shoes.plan.json", "twin.onnx", "twin.onnx.json"])
@pytest.mark.parametrize("new_list", [False, True])
def test_whatever_was_changed_after_signing_is_refused_even_with_a_new_list(
    plan: Artifact, tmp_path: Path, cache: Path, keys: tuple[Path, Path], name: str, new_list: bool
) -> None:
    write_package([plan], tmp_path / "model.zip", sign=keys[0])

    def change(contents: dict[str, bytes]) -> None:
        contents[name] = contents[name].replace(b"0", b"1", 1) + b" "
        if new_list:
            with_new_sums(contents)

    rewritten(tmp_path / "model.zip", change)
    with pytest.raises(ArtifactCorrupt, match="not signed by the key" if new_list else "is damaged"):
        open_package(tmp_path / "model.zip", trust=keys[1])
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_the_signature_of_another_is_refused(artifact: Artifact, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True, capture_output=True)
    write_package([artifact], tmp_path / "model.zip", sign=other)
    with pytest.raises(ArtifactCorrupt, match="not signed by the key"):
        open_package(tmp_path / "model.zip", trust=keys[1])


def test_keys_that_are_none_are_refused(artifact: Artifact, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    rsa = tmp_path / "rsa.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "rsa", "-out", rsa], check=True, capture_output=True)
    for wrong in (rsa, keys[1], artifact.path):
        with pytest.raises(InputError, match="no Ed25519 private key"):
            write_package([artifact], tmp_path / "model.zip", sign=wrong)
    write_package([artifact], tmp_path / "model.zip", sign=keys[0])
    with pytest.raises(InputError, match="no Ed25519 public key"):
        open_package(tmp_path / "model.zip", trust=keys[0])


def remove(contents: dict[str, bytes]) -> None:
    del contents["shoes.onnx.json"]


def add(contents: dict[str, bytes]) -> None:
    contents["more.txt"] = b"more"


def escape(contents: dict[str, bytes]) -> None:
    contents["../evil.txt"] = b"evil"


def absolute(contents: dict[str, bytes]) -> None:
    contents["/tmp/evil.txt"] = b"evil"


def damage(contents: dict[str, bytes]) -> None:
    contents["shoes.onnx"] = contents["shoes.onnx"][:-1] + b"?"


def no_list(contents: dict[str, bytes]) -> None:
    del contents[SUMS]


def odd_list(contents: dict[str, bytes]) -> None:
    contents[SUMS] += b"hello\n"


def double_list(contents: dict[str, bytes]) -> None:
    contents[SUMS] += contents[SUMS]


def endless_name(contents: dict[str, bytes]) -> None:
    contents["n" * 300] = b""
    with_new_sums(contents)


@pytest.mark.parametrize("change", [remove, add, escape, absolute, damage, no_list, odd_list, double_list, endless_name])
def test_a_package_that_was_tampered_with_is_refused(
    artifact: Artifact, tmp_path: Path, cache: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    write_package([artifact], tmp_path / "model.zip")
    with pytest.raises(ArtifactCorrupt):
        open_package(rewritten(tmp_path / "model.zip", change))
    assert not [p for p in cache.rglob("*") if p.is_file()]
    assert not (tmp_path / "evil.txt").exists()


def test_a_compressed_archive_is_no_package(artifact: Artifact, tmp_path: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    with pytest.raises(ArtifactCorrupt, match="which no package does"):
        open_package(rewritten(tmp_path / "model.zip", lambda contents: None, zipfile.ZIP_DEFLATED))


def test_a_file_of_two_sizes_is_not_read(artifact: Artifact, tmp_path: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    content = bytearray((tmp_path / "model.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 20] ^= 1  # what it takes in the archive
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match="states a wrong size"):
        open_package(tmp_path / "model.zip")


def test_a_signature_that_is_none_is_not_read(artifact: Artifact, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    write_package([artifact], tmp_path / "model.zip", sign=keys[0])

    def longer(contents: dict[str, bytes]) -> None:
        contents[SIGNATURE] += b"x"

    with pytest.raises(ArtifactCorrupt, match="is not signed; expected"):
        open_package(rewritten(tmp_path / "model.zip", longer), trust=keys[1])


def test_a_list_without_end_is_not_read(artifact: Artifact, tmp_path: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")

    def endless(contents: dict[str, bytes]) -> None:
        contents[SUMS] += bytes(1 << 20)

    with pytest.raises(ArtifactCorrupt, match="holds no SHA256SUMS"):
        open_package(rewritten(tmp_path / "model.zip", endless))


def test_an_archive_that_calls_itself_encrypted_is_no_package(artifact: Artifact, tmp_path: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    content = bytearray((tmp_path / "model.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match="which no package does"):
        open_package(tmp_path / "model.zip")


def test_one_name_twice_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    """Which of the two is checked and which is used could differ."""
    write_package([artifact], tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("shoes.onnx", b"evil")
    with pytest.raises(ArtifactCorrupt, match=r"'shoes\.onnx', which no package does"):
        open_package(tmp_path / "model.zip")


def test_a_link_is_unpacked_as_a_file_of_its_bytes(artifact: Artifact, tmp_path: Path, cache: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | {"link": b"/etc/passwd"}
    with_new_sums(contents)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == "link" else 0
            archive.writestr(entry, content)
    folder = open_package(tmp_path / "model.zip").path.parent
    assert (folder / "link").read_bytes() == b"/etc/passwd"
    assert not [p for p in cache.rglob("*") if p.is_symlink()]


def test_an_index_cannot_name_files_outside_the_package(artifact: Artifact, tmp_path: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    for elsewhere in (str(artifact.path), "../../../made/shoes.onnx"):

        def change(contents: dict[str, bytes], elsewhere: str = elsewhere) -> None:
            contents["package.json"] = json.dumps({"artifacts": [elsewhere], "format": "alexnet-deploy-package/1"}).encode()
            with_new_sums(contents)

        with pytest.raises(ArtifactCorrupt, match="does not fit"):
            open_package(rewritten(tmp_path / "model.zip", change))


@pytest.mark.parametrize(
    "index", [{"artifacts": []}, {"artifacts": ["shoes.onnx"], "format": "alexnet-deploy-package/2"}, {}, []]
)
def test_an_index_that_is_none_is_refused(artifact: Artifact, tmp_path: Path, index: object) -> None:
    write_package([artifact], tmp_path / "model.zip")

    def change(contents: dict[str, bytes]) -> None:
        contents["package.json"] = json.dumps(index).encode()
        with_new_sums(contents)

    with pytest.raises(ArtifactCorrupt, match=r"package\.json"):
        open_package(rewritten(tmp_path / "model.zip", change))


def test_entries_that_share_their_bytes_are_refused_before_they_unfold(artifact: Artifact, tmp_path: Path, cache: Path) -> None:
    """A bomb needs no compression: a thousand entries of the directory may point at the same megabyte."""
    write_package([artifact], tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip", "a") as archive:
        archive.writestr("a" * 8, bytes(1 << 20))
        first = archive.getinfo("a" * 8)
        for number in range(1000):
            same = copy.copy(first)
            same.filename = f"{number:08d}"
            archive.filelist.append(same)
            archive.NameToInfo[same.filename] = same
    assert (tmp_path / "model.zip").stat().st_size < 2 << 20
    with pytest.raises(ArtifactCorrupt, match="more bytes than it has"):
        open_package(tmp_path / "model.zip")
    assert not [p for p in cache.rglob("*") if p.is_file()]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX")
def test_a_cache_that_others_may_write_to_is_refused(artifact: Artifact, tmp_path: Path, cache: Path) -> None:
    """They could exchange a plan after it was checked."""
    write_package([artifact], tmp_path / "model.zip")
    (cache / "packages").mkdir(parents=True)
    (cache / "packages").chmod(0o777)
    with pytest.raises(InputError, match="not this user's alone"):
        open_package(tmp_path / "model.zip")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give folders away")
def test_a_cache_that_is_somebody_elses_is_refused(artifact: Artifact, tmp_path: Path, cache: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    (cache / "packages").mkdir(parents=True, mode=0o700)
    os.chown(cache / "packages", 12345, 12345)
    with pytest.raises(InputError, match="not this user's alone"):
        open_package(tmp_path / "model.zip")


@pytest.mark.parametrize("where", [46, 42])
def test_a_directory_of_the_archive_that_makes_no_sense_is_refused(artifact: Artifact, tmp_path: Path, where: int) -> None:
    """A name that is no UTF-8, and a file that begins nowhere: Python's zipfile says so with errors of several kinds."""
    write_package([artifact], tmp_path / "model.zip")
    content = bytearray((tmp_path / "model.zip").read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 9] = 8  # names are UTF-8
    content[directory + where : directory + where + 4] = b"\xff\xff\xff\xfe"
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(ArtifactCorrupt):
        open_package(tmp_path / "model.zip")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_found(artifact: Artifact, tmp_path: Path, data: st.DataObject) -> None:
    write_package([artifact], tmp_path / "model.zip")
    content = bytearray((tmp_path / "model.zip").read_bytes())
    directory = content.index(b"PK\x01\x02")  # where a byte has the most to say
    if data.draw(st.integers(0, 4)) == 0:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(directory if data.draw(st.booleans()) else 0, len(content) - 1))
            content[place] = data.draw(st.sampled_from([0, 1, 8, 0x7F, 0xFF]) | st.integers(0, 255))
    (tmp_path / "broken.zip").write_bytes(content)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    try:
        opened = open_package(tmp_path / "broken.zip")
    except ArtifactError:
        return
    # A date or an attribute in the archive's directory may differ: nothing of what is loaded does.
    assert opened.manifest == artifact.manifest
    assert opened.path.read_bytes() == artifact.path.read_bytes()


def test_what_was_unpacked_before_is_checked_again(artifact: Artifact, tmp_path: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    unpacked = open_package(tmp_path / "model.zip").path
    assert unpacked.parent.parent.stat().st_mode & 0o777 == 0o700
    unpacked.write_bytes(b"swapped in the cache")
    assert open_package(tmp_path / "model.zip").path.read_bytes() == artifact.path.read_bytes()


def test_what_another_process_has_unpacked_meanwhile_is_left_to_whoever_reads_it(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package([artifact], tmp_path / "model.zip")
    theirs = open_package(tmp_path / "model.zip").path.stat().st_ino
    looks = iter([False])  # it was not there yet when we looked
    whole = reading._is_whole
    monkeypatch.setattr(reading, "_is_whole", lambda *a: next(looks, None) is not False and whole(*a))
    assert open_package(tmp_path / "model.zip").path.stat().st_ino == theirs


def test_two_files_of_one_name_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    other = write_fake(tmp_path / "other" / "shoes.onnx", height=8, width=8)
    with pytest.raises(InputError, match="the same name"):
        write_package([artifact, other], tmp_path / "model.zip")


@pytest.mark.parametrize("name", ["a:b.onnx", "a\nb.onnx", "a\u2028b.onnx", "a\x85b.onnx", "a\\b.onnx"])
def test_what_could_not_be_unpacked_is_not_packed(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name for a file in a package"):
        write_package([write_fake(tmp_path / name, height=8, width=8)], tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()


@pytest.mark.parametrize("where", ["file", "/proc/nothing"])
def test_a_cache_that_cannot_be_written_to_is_said(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    write_package([artifact], tmp_path / "model.zip")
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / where))
    with pytest.raises(InputError, match=r"cannot be unpacked: N.*ALEXNET_DEPLOY_CACHE=FOLDER"):
        open_package(tmp_path / "model.zip")


def test_a_disk_that_fills_up_is_said_and_nothing_is_left(
    artifact: Artifact, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_package([artifact], tmp_path / "model.zip")
    monkeypatch.setattr("alexnet_deploy.package.reading.shutil.copyfileobj", full)
    with pytest.raises(InputError, match="No space left on device"):
        open_package(tmp_path / "model.zip")
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_a_changed_artifact_is_not_packed(artifact: Artifact, tmp_path: Path) -> None:
    artifact.path.write_bytes(b"changed")
    with pytest.raises(ArtifactCorrupt):
        write_package([artifact], tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()


def test_a_file_with_a_manifest_is_opened_as_before(artifact: Artifact) -> None:
    assert open_artifact(artifact.path) == artifact


def test_many_processes_may_open_a_package_at_once(artifact: Artifact, tmp_path: Path) -> None:
    write_package([artifact], tmp_path / "model.zip")
    code = (
        f"from alexnet_deploy.package import open_package; print(open_package({str(tmp_path / 'model.zip')!r}).manifest.sha256)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {p.communicate(timeout=PATIENCE_S)[0].strip() for p in processes} == {artifact.manifest.sha256}


def test_the_command_packs_and_predict_runs_it(artifact: Artifact, tmp_path: Path) -> None:
    from PIL import Image

    packed = CliRunner().invoke(main, ["package", str(artifact.path), "-o", str(tmp_path / "model.zip")])
    assert packed.exit_code == 0, packed.output
    assert "shoes.onnx.json" in packed.stdout
    file = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(file, "PNG")
    (tmp_path / "red.png").write_bytes(file.getvalue())
    words = ["predict", str(tmp_path / "model.zip"), str(tmp_path / "red.png"), "--backend", "fake"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output


def test_a_package_can_be_served(artifact: Artifact, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    from tests.serving import ask, picture, serving

    write_package([artifact], tmp_path / "model.zip")
    with serving(f"shoes={tmp_path / 'model.zip'}") as server:
        assert ask(server, "POST", "/classify", picture()).status == 200
