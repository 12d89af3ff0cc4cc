"""An ensemble: pictures as uint8 in, a graph that does the recipe's arithmetic, and the model behind it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.files import replacing
from alexnet_deploy.manifest import Manifest, Preprocess
from alexnet_deploy.triton.config import TritonModel, tensor, write_config
from alexnet_deploy.types import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto


def write_ensemble(folder: Path, name: str, manifest: Manifest) -> list[TritonModel]:
    """The graph, and the ensemble of it and the model `name`, which has this manifest."""
    recipe = manifest.preprocess
    first, both = f"{name}_preprocess", f"{name}_pixels"
    pixels = TensorSpec("pixels", "uint8", (None, recipe.height, recipe.width, 3))
    prepared = TensorSpec("prepared", "float32", (None, *recipe.input_shape))
    with replacing(folder / first / "1" / "model.onnx") as temporary:
        temporary.write_bytes(preprocessing_graph(recipe, prepared).SerializeToString())
    shared = {"max_batch_size": manifest.batch.max, "input": tensor(pixels, True)}
    write_config(folder, {"name": first, "platform": "onnxruntime_onnx", **shared, "output": tensor(prepared, True)})
    steps = [
        _step(first, (pixels.name, pixels.name), (prepared.name, prepared.name)),
        _step(name, (manifest.input.name, prepared.name), (manifest.output.name, manifest.output.name)),
    ]
    output = {"output": tensor(manifest.output, True)}
    write_config(folder, {"name": both, "platform": "ensemble", **shared, **output, "ensemble_scheduling": {"step": steps}})
    (folder / both / "1").mkdir(parents=True, exist_ok=True)  # Triton wants a version, even an empty one
    return [TritonModel(first, "onnxruntime_onnx", "model.onnx"), TritonModel(both, "ensemble", "")]


def _step(model: str, given: tuple[str, str], taken: tuple[str, str]) -> dict[str, object]:
    """One step of an ensemble; each pair is the model's own name of a tensor, and the ensemble's."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": {"key": given[0], "value": given[1]},
        "output_map": {"key": taken[0], "value": taken[1]},
    }


def preprocessing_graph(recipe: Preprocess, prepared: TensorSpec) -> ModelProto:
    """The recipe's arithmetic alone, as ONNX: uint8 (N, height, width, 3) RGB "pixels" to `prepared`."""
    from onnx import TensorProto, helper

    from alexnet_deploy.onnx_graph.raw_input import accept_pixels

    # `accept_pixels` goes in front of a classifier; behind this smallest one, everything is cut off again.
    nodes = [
        helper.make_node("Identity", ["input"], [prepared.name]),
        helper.make_node("Flatten", [prepared.name], ["flat"]),
        helper.make_node("Concat", ["flat", "flat"], ["classes"], axis=1),
    ]
    shape = ["N", *recipe.input_shape]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
    classes = helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["N", 2 * math.prod(recipe.input_shape)])
    model = helper.make_model(
        helper.make_graph(nodes, "preprocess", [given], [classes]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    accept_pixels(model, recipe)
    del model.graph.node[-2:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(prepared.name, TensorProto.FLOAT, shape))
    return model
