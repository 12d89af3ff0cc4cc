"""An FP32 graph and pictures in, a graph of lower precision out: ranges, rounding, graph forms, what each layer costs."""

from __future__ import annotations

from alexnet_deploy.extras import extra

with extra("build", "quantising"):
    import onnx as _onnx  # noqa: F401
