"""Prints the line that loads and times a plan without Python: NVIDIA's trtexec, or tensorrt_rtx for a plan of that flavour.

    python examples/trtexec_line.py models/alexnet.int8.plan
    $(python examples/trtexec_line.py models/alexnet.int8.plan)

In C++ it is the same file: createInferRuntime(logger)->deserializeCudaEngine(bytes, size). Nothing is in front of the plan's own
bytes; names, shapes and preprocessing stand in the .json beside it.
"""

from __future__ import annotations

import sys

from alexnet_deploy import Artifact

TOOLS = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}


def line(plan: str) -> str:
    manifest = Artifact.open(plan).manifest
    if manifest.plan is None:
        raise SystemExit(f"{plan} is no plan")
    shape = "x".join(str(n or manifest.batch.opt) for n in manifest.input.shape)
    return f"{TOOLS[manifest.plan.flavour]} --loadEngine={plan} --shapes={manifest.input.name}:{shape}"


if __name__ == "__main__":
    print(line(sys.argv[1]))
