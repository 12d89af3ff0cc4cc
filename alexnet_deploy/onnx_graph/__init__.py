"""ONNX graphs: reading them safely, knowing what they are, changing them, writing them.

files.py       load_graph, save_graph: checked on the way in and on the way out
classifier.py  describe: the input, the output, and what the output means
normalise.py   any exporter's graph to the one dialect that the other rooms read
answer.py      one output of (N, classes), of whatever a graph gives
widths.py      floats of other widths become float32
fold.py        constants, BatchNormalization and no-ops folded away
edit.py        the small words that all of them are made of
precisions.py  what each Conv and Gemm really computes in
statistics.py  layers, shapes, parameters, multiply-adds
raw_input.py   preprocessing moved into the graph: uint8 pictures in
running.py     one inference, for comparing two graphs
adopt.py       a manifest for somebody else's graph
"""

from __future__ import annotations

from alexnet_deploy.extras import extra

with extra("build", "reading ONNX graphs"):
    import onnx as _onnx  # noqa: F401

from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.classifier import describe
from alexnet_deploy.onnx_graph.files import load_graph, save_graph
from alexnet_deploy.onnx_graph.normalise import normalise
from alexnet_deploy.onnx_graph.precisions import layer_precisions

__all__ = ["adopt", "describe", "layer_precisions", "load_graph", "normalise", "save_graph"]
