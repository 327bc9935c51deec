"""A model as an ONNX graph: preprocessing, Gemm, Softmax."""

from __future__ import annotations

import json

import numpy as np

import jax_softmax
from jax_softmax.errors import InputError
from jax_softmax.export.columns import Graph, add_columns
from jax_softmax.training import FitResult, SoftmaxModel

# Of 2022: runtimes of the last years read them.
_OPSET, _ML_OPSET, _IR_VERSION = 17, 3, 8
# A file is one message of protobuf, which has no more.
_MOST_BYTES = 2**31 - 2**20


def onnx_bytes(model: SoftmaxModel, dtype: str) -> bytes:
    """The graph `features [N, ...] -> probabilities [N, V]`, with N left free.

    That of a model of a table's columns takes each column `[N, 1]` in place of `features`. Class
    names are in its metadata, `class_names`, as a JSON list.
    """
    from onnx import checker, helper

    kernel, bias = (_in_full(np.asarray(model.params[name])) for name in ("kernel", "bias"))
    if kernel.nbytes + bias.nbytes > _MOST_BYTES:
        raise InputError(
            f"onnx: expected parameters of less than 2 GB, got {kernel.nbytes / 1e9:.1f} GB; "
            f"export to safetensors."
        )
    real = helper.np_dtype_to_tensor_dtype(kernel.dtype)
    graph = Graph()
    columns = model.columns if isinstance(model, FitResult) else None
    if columns is None:
        features = _add_features(graph, model, dtype, real)
    else:
        features = add_columns(graph, columns, real)
    scale = graph.constant(":scale", np.asarray(model.feature_scale, kernel.dtype))
    scaled = graph.node("Mul", [features, scale], ":scaled")
    layer = [graph.constant(":kernel", kernel), graph.constant(":bias", bias)]
    logits = graph.node("Gemm", [scaled, *layer], ":logits")
    graph.node("Softmax", [logits], "probabilities", axis=1)
    given = helper.make_tensor_value_info("probabilities", real, ["N", len(model.class_names)])
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes, "softmax_classifier", graph.inputs, [given], graph.constants
        ),
        ir_version=_IR_VERSION,
        opset_imports=[
            helper.make_opsetid("", _OPSET),
            *([] if columns is None else [helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]),
        ],
        producer_name="jax_softmax",
        producer_version=jax_softmax.__version__,
    )
    helper.set_model_props(proto, {"class_names": json.dumps(model.class_names)})
    checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _add_features(graph: Graph, model: SoftmaxModel, dtype: str, real: int) -> str:
    """Adds the input `features` as stored; the name of them `[N, D]` in the kernel's dtype."""
    from onnx import helper

    taken = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape: list[str | int | None] = ["N", *model.feature_shape]
    graph.inputs.append(helper.make_tensor_value_info("features", taken, shape))
    flat = graph.node("Flatten", ["features"], ":flat", axis=1)
    return graph.node("Cast", [flat], ":real", to=real)


def _in_full(array: np.ndarray) -> np.ndarray:
    """Half precision in float32, in which it loses nothing; ONNX's Gemm has no bfloat16."""
    return array if array.dtype == np.float64 else array.astype(np.float32)
