"""verify sees damage, says how sure it is, and names the gates that were missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tiny import LABELS, SIZE, tiny_artifact, tiny_graph
from tiny_pictures import picture_set

from alexnet_deploy.answers import Answers, batch_invariance, truth
from alexnet_deploy.artifact import write_artifact
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.manifest import CalibrationRecord, DataReference, Manifest, Preprocess, picture_digits
from alexnet_deploy.onnx_graph import adopt, save_graph
from alexnet_deploy.parity import accuracy, agreement_matrix, compare, evaluate, verify, verify_all
from alexnet_deploy.parity_report import Gates
from alexnet_deploy.ran import Ran
from alexnet_deploy.report.parity import notes
from alexnet_deploy.runtime import Runtime
from alexnet_deploy.types import BatchRange, OutputKind, Precision, TensorSpec

Logits = npt.NDArray[np.float32]


def answered(logits: Logits, *, file: str = "a.onnx", kind: OutputKind = OutputKind.LOGITS, labelled: bool = True) -> Answers:
    """Answers as if an artifact called `file` had given these logits."""
    count, classes = logits.shape
    manifest = Manifest(
        kind="onnx",
        input=TensorSpec("input", "float32", (None, 3, SIZE, SIZE)),
        output=TensorSpec("output", "float32", (None, classes)),
        output_kind=kind,
        preprocess=Preprocess(height=SIZE, width=SIZE),
        batch=BatchRange(),
    )
    ran = Ran(
        file=file, kind="onnx", precision=Precision.FP32, form=None, size_bytes=1, sha256="0" * 64, backend="onnxruntime",
        device="cpu", running=file, twin_of=None,
    )  # fmt: skip
    pictures = picture_set(count, labelled=labelled, classes=tuple(f"c{i}" for i in range(classes)), size=4)
    data = DataReference(location=pictures.location, count=count, sha256="0" * 64)
    return Answers(ran=ran, manifest=manifest, pictures=pictures, data=data, truth=pictures.labels, logits=logits)


def logits_of(count: int, classes: int, seed: int) -> Logits:
    return np.random.default_rng(seed).normal(scale=5, size=(count, classes)).astype(np.float32)


shapes = st.tuples(st.integers(1, 60), st.integers(2, 12), st.integers(0, 1000))


@given(shapes)
@settings(max_examples=30, deadline=None)
def test_an_artifact_agrees_with_itself_in_every_figure(shape: tuple[int, int, int]) -> None:
    own = answered(logits_of(*shape))
    found = compare(own, own, Gates(max_drop=0, min_agreement=100, max_error=0))
    assert found.agreement.fraction == 1
    assert found.error.max_abs == found.error.relative == found.error.mean_abs == 0
    assert found.error.cosine == pytest.approx(1)
    assert found.error.sqnr_db is None
    assert found.difference is not None
    assert found.difference.drop == 0
    assert found.moved == ()
    assert found.missed == ()


@given(shapes, st.floats(1e-3, 1.0))
@settings(max_examples=30, deadline=None)
def test_every_figure_is_its_definition(shape: tuple[int, int, int], scale: float) -> None:
    ours = logits_of(*shape)
    noise = np.random.default_rng(shape[2] + 1).normal(scale=scale, size=ours.shape).astype(np.float32)
    theirs = ours + noise
    found = compare(answered(ours), answered(theirs))
    difference = ours.astype(np.float64) - theirs
    labels = np.arange(len(ours)) % ours.shape[1]
    assert found.error.max_abs == pytest.approx(np.abs(difference).max())
    assert found.error.relative == pytest.approx(np.abs(difference).max() / np.abs(ours).max())
    assert found.error.sqnr_db == pytest.approx(
        10 * np.log10(np.square(ours.astype(np.float64)).sum() / np.square(difference).sum())
    )
    assert found.agreement.count == (ours.argmax(1) == theirs.argmax(1)).sum()
    assert found.reference_accuracy is not None
    assert found.candidate_accuracy is not None
    assert found.reference_accuracy.top1.count == (ours.argmax(1) == labels).sum()
    ranked = np.argsort(-theirs, axis=1, kind="stable")[:, :5]
    top5 = found.candidate_accuracy.top5
    assert (top5 is None) == (ours.shape[1] <= 5)
    assert top5 is None or top5.count == (ranked == labels[:, None]).any(axis=1).sum()


def test_accuracy_that_looks_unchanged_does_not_hide_changed_answers() -> None:
    """Ten answers lost, ten others gained: accuracy is the same, agreement and the discordant counts are not."""
    logits = np.eye(4, dtype=np.float32)[np.arange(100) % 4]
    ours, theirs = logits.copy(), logits.copy()
    ours[:10] = np.roll(ours[:10], 1, axis=1)
    theirs[10:20] = np.roll(theirs[10:20], 1, axis=1)
    found = compare(answered(ours), answered(theirs))
    assert found.reference_accuracy == found.candidate_accuracy
    assert found.agreement.fraction == 0.8
    assert found.difference is not None
    assert (found.difference.lost, found.difference.gained) == (10, 10)


def test_a_missed_gate_is_one_sentence_with_both_numbers() -> None:
    ours = np.eye(4, dtype=np.float32)[np.arange(200) % 4]
    theirs = ours.copy()
    theirs[:3] = np.roll(theirs[:3], 1, axis=1)
    found = compare(answered(ours), answered(theirs, file="b.onnx"), Gates(max_drop=1, min_agreement=99, max_error=0.5))
    drop, agreement, error = found.missed
    assert "b.onnx loses 1.50 points" in drop
    assert "allows 1" in drop
    assert "98.50%" in agreement
    assert "asks for 99%" in agreement
    assert "1.00e+00" in error
    assert "allows 0.5" in error


def test_a_gate_that_is_just_met_is_met() -> None:
    ours = np.eye(4, dtype=np.float32)[np.arange(1000) % 4]
    theirs = ours.copy()
    theirs[:5] = np.roll(theirs[:5], 1, axis=1)
    assert compare(answered(ours), answered(theirs), Gates(max_drop=0.5, min_agreement=99.5)).missed == ()


def test_pictures_without_a_finite_answer_are_counted_and_always_a_miss() -> None:
    ours = logits_of(50, 5, 0)
    theirs = ours.copy()
    theirs[3, 2], theirs[7, 0] = np.nan, np.inf
    found = compare(answered(ours), answered(theirs, file="half.onnx"))
    assert found.error.not_finite == 2
    assert found.error.max_abs == 0
    assert found.agreement.count == 48
    assert found.missed == ("half.onnx gives NaN or infinity for 2 of 50 pictures; 0 are allowed",)
    assert {moved.index for moved in found.moved} == {3, 7}


def test_a_picture_without_a_finite_answer_is_wrong_and_the_others_are_not() -> None:
    logits = np.eye(6, dtype=np.float32)[np.arange(30) % 6]
    logits[4, 5] = np.inf  # of the right class all the same
    found = accuracy(answered(logits))
    assert found.top5 is not None
    assert (found.top1.count, found.top5.count) == (29, 29)


def test_answers_that_are_all_zero_are_compared_too() -> None:
    """No largest logit to be relative to, no direction, no signal."""
    zeros = np.zeros((8, 3), np.float32)
    same, off = compare(answered(zeros), answered(zeros)).error, compare(answered(zeros), answered(zeros + 0.5)).error
    assert (same.relative, same.cosine, same.sqnr_db) == (0, 1, None)
    assert (off.relative, off.cosine, off.max_abs) == (1, 0, 0.5)
    assert off.sqnr_db is not None
    assert off.sqnr_db < -100


def test_other_labels_are_refused_where_both_have_some() -> None:
    own = answered(logits_of(8, 3, 0))
    one, other = (
        replace(own, manifest=structs.replace(own.manifest, labels=labels)) for labels in (("a", "b", "c"), ("a", "c", "b"))
    )
    with pytest.raises(InputError, match="different labels"):
        compare(one, other)
    assert compare(one, own).agreement == compare(own, one).agreement == compare(one, one).agreement


def test_a_reference_without_a_finite_answer_is_named_and_agrees_with_none() -> None:
    ours, theirs = logits_of(50, 5, 0), logits_of(50, 5, 0)
    ours[3, 2] = ours[7, 0] = theirs[7, 1] = np.nan
    reference, candidate = answered(ours, file="half.onnx"), answered(theirs, file="int8.onnx")
    found = compare(reference, candidate)
    error = found.error
    assert (error.reference_not_finite, error.not_finite, error.pictures, error.max_abs) == (2, 1, 48, 0)
    assert found.missed == (
        "half.onnx gives NaN or infinity for 2 of 50 pictures; 0 are allowed",
        "int8.onnx gives NaN or infinity for 1 of 50 pictures; 0 are allowed",
    )
    assert found.agreement.count == sum(row.agree for row in found.classes) == 48
    assert agreement_matrix([reference, candidate]) == ((0.96, 0.96), (0.96, 0.98))
    assert {moved.index: (moved.reference == "", moved.candidate == "") for moved in found.moved} == {
        3: (True, False),
        7: (True, True),
    }


def test_probabilities_are_compared_with_logits_up_to_their_constant() -> None:
    ours = logits_of(40, 6, 1)
    shifted = ours - np.log(np.exp(ours.astype(np.float64)).sum(axis=1, keepdims=True)).astype(np.float32)
    found = compare(answered(ours), answered(shifted, kind=OutputKind.PROBABILITIES))
    assert found.error.compared == "log-probabilities"
    assert found.error.max_abs < 1e-5


def test_the_pictures_that_moved_farthest_come_first_and_changed_answers_before_them() -> None:
    ours = np.full((6, 3), 0, np.float32)
    ours[:, 0] = 4
    theirs = ours.copy()
    theirs[4] = (0, 4, 0)  # another answer
    theirs[2, 0] = 1.5  # the same answer, less sure
    theirs[1, 0] = 3.9
    found = compare(answered(ours), answered(theirs))
    assert [moved.index for moved in found.moved] == [4, 2, 1]
    assert (found.moved[0].reference, found.moved[0].candidate) == ("class 0", "class 1")
    assert 0 < found.moved[1].distance < found.moved[0].distance <= 1


def test_class_rows_add_up_to_the_whole() -> None:
    ours, theirs = logits_of(70, 5, 2), logits_of(70, 5, 3)
    found = compare(answered(ours), answered(theirs))
    assert found.reference_accuracy is not None
    assert found.candidate_accuracy is not None
    assert sum(row.total for row in found.classes) == 70
    assert sum(row.reference for row in found.classes) == found.reference_accuracy.top1.count
    assert sum(row.candidate for row in found.classes) == found.candidate_accuracy.top1.count
    assert sum(row.agree for row in found.classes) == found.agreement.count


def test_without_labels_there_is_agreement_and_no_accuracy() -> None:
    own = answered(logits_of(20, 4, 0), labelled=False)
    found = compare(own, own)
    assert found.reference_accuracy is None
    assert found.difference is None
    assert found.classes == ()
    with pytest.raises(InputError, match="--max-drop needs labels"):
        compare(own, own, Gates(max_drop=1))


def test_different_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"has 4 classes, .* has 5"):
        compare(answered(logits_of(10, 4, 0)), answered(logits_of(10, 5, 0), file="b.onnx"))


@pytest.mark.parametrize(
    "gates",
    [
        {"min_agreement": 101.0},
        {"min_agreement": float("nan")},
        {"max_error": -1.0},
        {"max_error": float("nan")},
        {"max_drop": float("nan")},
    ],
)
def test_gates_that_mean_nothing_are_refused(gates: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Gates(**gates)


def test_folders_are_matched_with_labels_by_name_not_by_order(tmp_path: Path) -> None:
    manifest = tiny_artifact(tmp_path / "a.onnx").manifest
    shuffled = picture_set(4, classes=("fox", "ant"))
    assert truth(shuffled, manifest).tolist() == [LABELS.index("fox"), LABELS.index("ant")] * 2


def test_a_class_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    manifest = tiny_artifact(tmp_path / "a.onnx").manifest
    with pytest.raises(DataError, match="does not know the classes 'yak'"):
        truth(picture_set(4, classes=("fox", "yak")), manifest)
    with pytest.raises(DataError, match="9 classes"):
        truth(picture_set(9, classes=tuple("abcdefghi")), structs.replace(manifest, labels=()))


def test_real_runtimes_are_compared_batch_by_batch(tmp_path: Path) -> None:
    one = tiny_artifact(tmp_path / "one.onnx")
    two = tiny_artifact(tmp_path / "two.onnx", graph=tiny_graph(bias=2.0))
    pictures = picture_set(23)
    told: list[tuple[int, int]] = []
    with Runtime(one.path) as reference, Runtime(two.path) as candidate:
        found = verify(
            reference, candidate, pictures, batch_size=5, progress=lambda task, done, total, note="": told.append((done, total))
        )
        whole = verify(reference, candidate, pictures, batch_size=23)
    assert found.error.max_abs == pytest.approx(2, rel=1e-4)
    assert found.agreement.fraction == 1
    assert found.agreement == whole.agreement
    assert found.candidate.backend == "onnxruntime"
    assert found.candidate.twin_of is None
    assert told[0] == (0, 23)
    assert told[-1] == (23, 23)


def test_several_candidates_give_a_symmetric_matrix(tmp_path: Path) -> None:
    paths = [tiny_artifact(tmp_path / f"{i}.onnx", graph=tiny_graph(bias=float(i))).path for i in range(3)]
    runtimes = [Runtime(path) for path in paths]
    found = verify_all(runtimes[0], runtimes[1:], picture_set(12))
    assert found.files == ("0.onnx", "1.onnx", "2.onnx")
    assert found.agreement == ((1.0,) * 3,) * 3
    assert [report.candidate.file for report in found.reports] == ["1.onnx", "2.onnx"]


def test_different_preprocessing_is_said(tmp_path: Path) -> None:
    one = tiny_artifact(tmp_path / "one.onnx")
    other = Preprocess(height=SIZE, width=SIZE, mean=(0.0, 0.0, 0.0))
    manifest = structs.replace(one.manifest, preprocess=other, file="two.onnx")
    two = write_artifact(tmp_path / "two.onnx", manifest, one.path.read_bytes())
    with Runtime(one.path) as reference, Runtime(two.path) as candidate:
        found = verify(reference, candidate, picture_set(8))
    assert not found.same_preprocessing
    assert found.error.max_abs > 0


def test_a_graph_that_prepares_pictures_itself_is_not_said_to_do_it_otherwise(tmp_path: Path) -> None:
    floats = tiny_artifact(tmp_path / "floats.onnx")
    pixels = adopt(floats.path, floats.manifest.preprocess, output=tmp_path / "pixels.onnx", pixels_in=True)
    squeezed = structs.replace(pixels.manifest, preprocess=structs.replace(pixels.manifest.preprocess, resize=2 * SIZE))
    other = write_artifact(tmp_path / "other.onnx", squeezed, pixels.path.read_bytes())
    runtimes = [Runtime(artifact.path) for artifact in (floats, pixels, other)]
    found = verify_all(runtimes[0], runtimes[1:], picture_set(8))
    assert [report.same_preprocessing for report in found.reports] == [True, False]
    assert not any("pixels.onnx preprocesses" in note for note in notes(found))


def test_evaluation_needs_labels_and_counts_classes(tmp_path: Path) -> None:
    with Runtime(tiny_artifact(tmp_path / "one.onnx").path) as runtime:
        found = evaluate(runtime, picture_set(14))
        assert found.accuracy.top1.total == 14
        assert [row.total for row in found.classes] == [2] * len(LABELS)
        with pytest.raises(DataError, match="no labels"):
            evaluate(runtime, picture_set(5, labelled=False))


def test_an_overflowing_graph_is_found_picture_by_picture(tmp_path: Path) -> None:
    """Runtime refuses NaN; verify must count the pictures that give it."""
    from onnx import helper

    graph = tiny_graph()
    graph.graph.node[-1].output[0] = "scores"
    # The logarithm of a negative score is no number.
    graph.graph.node.append(helper.make_node("Log", ["scores"], ["output"]))
    bad = tiny_artifact(tmp_path / "bad.onnx", graph=graph)
    good = tiny_artifact(tmp_path / "good.onnx")
    with Runtime(good.path) as reference, Runtime(bad.path) as candidate:
        found = verify(reference, candidate, picture_set(9), batch_size=4)
    assert (found.error.not_finite, found.error.pictures) == (9, 0)
    assert "NaN or infinity for 9 of 9" in found.missed[0]


def test_a_sound_graph_answers_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    with Runtime(tiny_artifact(tmp_path / "one.onnx").path) as runtime:
        found = batch_invariance(runtime, picture_set(8))
    assert found is not None
    assert found.held
    assert found.changed == 0
    assert found.pictures == 8


def test_a_graph_that_mixes_its_pictures_is_found_out(tmp_path: Path) -> None:
    """It looks at the mean of the batch: the same picture, another answer."""
    from onnx import helper

    graph = tiny_graph()
    graph.graph.node[-1].output[0] = "scores"
    graph.graph.node.append(helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[0], keepdims=1))
    graph.graph.node.append(helper.make_node("Sub", ["scores", "mean"], ["output"]))
    good, bad = tiny_artifact(tmp_path / "good.onnx"), tiny_artifact(tmp_path / "bad.onnx", graph=graph)
    with Runtime(good.path) as reference, Runtime(bad.path) as candidate:
        found = verify(reference, candidate, picture_set(12))
    assert found.invariance is not None
    assert not found.invariance.held
    assert any("answers otherwise alone than in a batch" in sentence for sentence in found.missed)


def test_pictures_that_a_model_was_made_with_are_said_to_flatter_it() -> None:
    own = answered(logits_of(20, 4, 0))
    elsewhere = structs.replace(own.data, location="/photos/train", sha256="1" * 64)
    moved, others = structs.replace(elsewhere, sha256=own.data.sha256), structs.replace(elsewhere, location=own.data.location)
    for seen, expected in ((own.data, True), (moved, True), (others, True), (elsewhere, False)):
        found = compare(own, replace(own, manifest=structs.replace(own.manifest, pictures=seen)))
        assert found.trained_on is expected
        assert found.calibrated_on == 0


def test_pictures_that_were_calibrated_on_are_counted(tmp_path: Path) -> None:
    pictures = picture_set(12)
    seen, others = pictures.subset(range(5)), pictures.subset(range(5, 12))
    record = CalibrationRecord(
        data=seen.reference(),
        method="minmax",
        chosen_by="request",
        seed=0,
        preprocess_sha256="",
        pictures=picture_digits(seen.content_hashes()),
    )
    own = tiny_artifact(tmp_path / "own.onnx")
    made = save_graph(tiny_graph(), tmp_path / "made.onnx", structs.replace(own.manifest, calibration=record))
    with Runtime(own.path) as reference, Runtime(made.path) as candidate:
        for measured, expected in ((pictures, 5), (others, 0)):
            found = verify_all(reference, [candidate], measured)
            assert found.reports[0].calibrated_on == expected
            assert any("was calibrated on 5 of these 12 pictures" in note for note in notes(found)) is (expected == 5)
            assert evaluate(candidate, measured).calibrated_on == expected
