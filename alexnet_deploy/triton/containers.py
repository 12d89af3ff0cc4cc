"""Which of NVIDIA's containers reads a plan: it must hold the very TensorRT that built it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alexnet_deploy.artifact import Artifact
from alexnet_deploy.errors import InputError
from alexnet_deploy.types import Flavour, GraphForm

IMAGE = "nvcr.io/nvidia/tritonserver"
# Release of the container -> its TensorRT, in the image whose tag ends in -trtllm-python-py3; a plan is read by no other version.
# https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md, as of release 26.08: none of
# them holds TensorRT 11, and no table of the other images (tags ending in -py3) was to be found. `image` is for those.
TABLE_AS_OF = "26.08"
TENSORRT_IN_CONTAINER = {
    "26.07": "10.14.1.48",
    "26.06": "10.14.1.48",
    "26.05": "10.14.1.48",
    "26.04": "10.14.1.48",
    "26.03": "10.14.1.48",
    "26.02": "10.13.3.9",
    "26.01": "10.13.3.9",
    "25.12": "10.13.3.9",
    "25.11": "10.13.3.9",
    "25.10": "10.11.0.33",
    "25.09": "10.11.0.33",
    "25.08": "10.11.0.33",
    "25.07": "10.10.0.31",
    "25.06": "10.10.0.31",
    "25.05": "10.9.0.34",
    "25.04": "10.9.0.34",
    "25.03": "10.9.0.34",
    "25.02": "10.8.0.43",
    "25.01": "10.8.0.43",
}
# For graphs alone: the newest release of that table, with onnxruntime 1.28.
GRAPHS_IMAGE = f"{IMAGE}:{TABLE_AS_OF}-py3"


def choose_image(artifacts: Sequence[Artifact], named: str = "") -> str:
    """The newest container that reads all of these, or the one that was named, unless the table says that it does not.

    Raises:
        InputError: a checkpoint, a graph written for TensorRT, a plan of TensorRT for RTX, or plans of a version that no
            container has, or of several.
    """
    versions = {version: artifact.path.name for artifact in artifacts if (version := _plan_version(artifact))}
    if not versions:
        return named or GRAPHS_IMAGE
    if len(versions) > 1:
        raise InputError(
            f"the plans are of TensorRT {' and '.join(sorted(versions))}", expected="plans of one version: a container has one"
        )
    (version,) = versions
    if named:
        in_table = re.fullmatch(rf"{re.escape(IMAGE)}:(\d\d\.\d\d)-trtllm-python-py3", named)
        holds = TENSORRT_IN_CONTAINER.get(in_table[1]) if in_table else None
        if holds not in (None, version):
            raise InputError(f"{versions[version]} is of TensorRT {version}", expected=f"{holds}, which {named} holds")
        return named
    release = next((release for release, holds in TENSORRT_IN_CONTAINER.items() if holds == version), None)
    if release is None:
        raise InputError(
            f"{versions[version]} is of TensorRT {version}, which no Triton container in the table (of {TABLE_AS_OF}) has",
            expected=f"one of {', '.join(sorted(set(TENSORRT_IN_CONTAINER.values())))}",
            fix=f"--image {IMAGE}:TAG, if you know one that holds it, or build the plan inside the container that will serve it",
        )
    return f"{IMAGE}:{release}-trtllm-python-py3"


def _plan_version(artifact: Artifact) -> str | None:
    """The version of TensorRT that a plan is of; None of a graph. Raises InputError for what Triton does not read."""
    plan, twin = artifact.manifest.plan, artifact.manifest.twin
    if artifact.manifest.kind == "checkpoint":
        raise InputError(f"Triton reads no {artifact.path.name}", expected="an ONNX graph or a plan", fix="alexnet-deploy export")
    if plan is None:
        if artifact.manifest.form is GraphForm.TENSORRT:
            raise InputError(
                f"{artifact.path.name} is written for TensorRT, and Triton's onnxruntime would round it once more",
                expected="a plan that is built from it, or the graph of the CPU form",
                fix="alexnet-deploy build-engine --target tensorrt, on a machine with a GPU",
            )
        return None
    if plan.flavour is not Flavour.TENSORRT:
        raise InputError(
            f"{artifact.path.name} is of {plan.flavour}, which Triton does not have",
            expected="a plan of TensorRT itself, or an ONNX graph",
            fix=f"its graph {twin.file}" if twin else "alexnet-deploy build-engine --target tensorrt, on a machine with a GPU",
        )
    return plan.version
