"""onnxruntime behind Runtime."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.backends.ort import _spinning
from alexnet_deploy.errors import ArtifactCorrupt, BackendError, DeviceMissing, ManifestError, ModelError
from alexnet_deploy.gpu import Gpu, gpus
from alexnet_deploy.quantization.half import to_half
from alexnet_deploy.runtime import Runtime
from tests.conformance import Conformance
from tests.foreign_models import attention_tokens_first
from tests.patience import until
from tests.tiny import float_batch, tiny_artifact, tiny_graph


class TestOnnxRuntime(Conformance):
    backend = "onnxruntime"


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="no GPU here")
class TestOnnxRuntimeOnCuda(Conformance):
    backend = "onnxruntime"
    device = "cuda"


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_cuda_is_strict(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    with pytest.raises(DeviceMissing, match="no usable GPU"):
        Runtime(artifact.path, "cuda")


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_fell_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything says that there is CUDA, and onnxruntime, which is the real one, takes the CPU in its stead without an error."""
    import onnxruntime

    monkeypatch.setattr("alexnet_deploy.backends.ort.gpus", lambda: (Gpu("a GPU that is not here", (9, 0), 1),))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(DeviceMissing, match="could not start CUDAExecutionProvider and took CPUExecutionProvider instead"):
        Runtime(tiny_artifact(tmp_path / "m.onnx").path, "cuda")


def test_with_a_gpu_an_onnxruntime_for_the_cpu_alone_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr("alexnet_deploy.backends.ort.gpus", lambda: (Gpu("a GPU that is not here", (9, 0), 1),))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceMissing, match=r"built for the CPU only.*pip install 'alexnet-deploy\[gpu\]'"):
        Runtime(tiny_artifact(tmp_path / "m.onnx").path, "cuda")


def test_a_graph_that_this_onnxruntime_has_no_kernels_for_is_not_called_corrupt(tmp_path: Path) -> None:
    graph = tiny_graph()
    for node in graph.graph.node[2:]:
        node.input[0] += " in bfloat16" if node.op_type == "GlobalAveragePool" else ""
    graph.graph.node.insert(2, helper.make_node("Cast", ["rectified"], ["half"], to=TensorProto.BFLOAT16))
    graph.graph.node.insert(3, helper.make_node("Relu", ["half"], ["again"]))
    graph.graph.node.insert(4, helper.make_node("Cast", ["again"], ["rectified in bfloat16"], to=TensorProto.FLOAT))
    with pytest.raises(BackendError, match=r"onnxruntime does not run .*m\.onnx: .*Relu"):
        Runtime(tiny_artifact(tmp_path / "m.onnx", graph=graph).path)


def test_the_number_of_threads_does_not_change_the_answer_much(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    with Runtime(artifact.path, threads=1) as one, Runtime(artifact.path, threads=2) as two:
        np.testing.assert_allclose(one.logits(float_batch(4)), two.logits(float_batch(4)), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted on Linux only")
@pytest.mark.parametrize("threads", [1, 3])
def test_it_uses_the_threads_that_it_is_given(tmp_path: Path, threads: int) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    here = Path("/proc/self/task")
    before = set(here.iterdir())
    with Runtime(artifact.path, threads=threads):
        until(lambda: len(set(here.iterdir()) - before) == threads - 1)  # the caller's is one of them; the one that hashed ends


def test_threads_leave_the_cores_to_others_soon_after_a_call(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "m.onnx")
    burnt = []
    with Runtime(artifact.path, threads=4) as runtime:
        for _ in range(5):
            runtime.logits(float_batch(4))
            before = time.process_time()
            time.sleep(0.1)
            burnt.append(time.process_time() - before)
    assert min(burnt) < 0.03  # CPU seconds; with onnxruntime's defaults it is 0.1 and more for three threads that wait


@pytest.mark.parametrize(
    ("version", "setting"), [("1.25.1", "session.force_spinning_stop"), ("1.32.0", "session.intra_op.spin_duration_us")]
)
def test_versions_are_told_to_stop_in_their_own_words(version: str, setting: str) -> None:
    assert _spinning(version)[0] == setting


def test_a_graph_that_ends_otherwise_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    graph = tiny_graph()
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 17
    graph.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 17
    artifact = tiny_artifact(tmp_path / "m.onnx", graph=graph)
    with pytest.raises(ManifestError, match=r"the input of m\.onnx is"):
        Runtime(artifact.path)


def test_a_graph_with_two_outputs_is_no_classifier(tmp_path: Path) -> None:
    graph = tiny_graph()
    graph.graph.output.append(graph.graph.output[0])
    graph.graph.output[1].name = "flat"
    artifact = tiny_artifact(tmp_path / "m.onnx", graph=graph)
    with pytest.raises((ModelError, ArtifactCorrupt)):
        Runtime(artifact.path)


def test_nothing_is_printed_for_a_broken_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08broken")
    with pytest.raises(ArtifactCorrupt, match="cannot load"):
        Runtime(path, backend="onnxruntime")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_that_fails_within_a_call_says_so_and_what_helps(tmp_path: Path, backend: str) -> None:
    """A graph that says it takes any batch, and reshapes it to one row."""
    pytest.importorskip(backend)
    graph = tiny_graph()
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "one row"))
    graph.graph.node.insert(4, helper.make_node("Reshape", ["flat", "one row"], ["row"]))
    graph.graph.node[5].input[0] = "row"
    path = tiny_artifact(tmp_path / "m.onnx", graph=graph).path
    with Runtime(path, backend=backend) as runtime:
        expected = runtime.logits(float_batch(1))
        with pytest.raises(BackendError, match=rf"{backend} failed on a batch of \(2, 3, 16, 16\)") as caught:
            runtime.logits(float_batch(2))
        assert "reshape" in caught.value.found.lower()
        if "a new Runtime" not in caught.value.fix:
            np.testing.assert_array_equal(runtime.logits(float_batch(1)), expected)
    with Runtime(path, backend=backend) as runtime:
        np.testing.assert_array_equal(runtime.logits(float_batch(1)), expected)


def test_a_graph_from_elsewhere_with_attention_in_float16_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "attention.onnx"
    path.write_bytes(to_half(attention_tokens_first().model, "float16").SerializeToString())
    code = """
import sys
import numpy as np
from alexnet_deploy import Runtime

with Runtime(sys.argv[1], backend="onnxruntime") as runtime:
    print(runtime.logits(np.zeros((3, *runtime.manifest.input.shape[1:]), np.float32)).shape[0])
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer on this system")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_time_limit_that_ends_a_call_is_not_taken_for_an_error_of_the_engine(tmp_path: Path, backend: str) -> None:
    """As task queues have them: a signal handler that raises an exception of its own, wherever the program is."""
    pytest.importorskip(backend)
    path = tiny_artifact(tmp_path / "m.onnx").path

    class TimeIsUp(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise TimeIsUp

    Runtime(path, backend=backend).close()  # msgspec, reading the first manifest of all, would take the exception for its own
    before = signal.signal(signal.SIGALRM, ring)
    ended = 0
    try:
        for tenths_ms in range(1, 60):
            with contextlib.suppress(TimeIsUp):
                signal.setitimer(signal.ITIMER_REAL, tenths_ms / 10_000)
                while signal.getitimer(signal.ITIMER_REAL)[0]:
                    with Runtime(path, backend=backend) as runtime:
                        runtime.logits(float_batch(64))
                ended -= 1  # it has come while something was destroyed, where Python lets no exception out
            ended += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended > 40


@pytest.mark.skipif(sys.platform == "win32", reason="names are text on this system")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_folder_whose_name_is_no_utf8_is_no_obstacle(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    folder = tmp_path / os.fsdecode(b"na\xefve")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    with Runtime(tiny_artifact(folder / "m.onnx").path, backend=backend) as runtime:
        assert runtime.logits(float_batch(1)).shape == (1, 7)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on this system")
@pytest.mark.parametrize("used_in_child", [True, False])
def test_a_forked_child_ends_by_itself(tmp_path: Path, used_in_child: bool) -> None:
    """Without care, the session's destructor waits at exit for threads that only the parent has."""
    artifact = tiny_artifact(tmp_path / "m.onnx")
    code = f"""
        import os, sys, numpy as np
        from alexnet_deploy import Runtime
        runtime = Runtime({str(artifact.path)!r}, threads=2)
        batch = np.ones((64, 3, 16, 16), np.float32)
        runtime.logits(batch)
        if os.fork() == 0:
            if {used_in_child}:
                runtime.logits(batch)
                runtime.close()
            sys.exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
