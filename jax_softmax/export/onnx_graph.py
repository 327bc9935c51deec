"""A model as an ONNX graph: preprocessing, Gemm, Softmax."""

from __future__ import annotations

import json
import math

import numpy as np

import jax_softmax
from jax_softmax.errors import InputError
from jax_softmax.training import SoftmaxModel

# Of 2022: runtimes of the last years read them.
_OPSET, _IR_VERSION = 17, 8
# A file is one message of protobuf, which has no more.
_MOST_BYTES = 2**31 - 2**20


def onnx_bytes(model: SoftmaxModel, dtype: str) -> bytes:
    """The graph `features [N, ...] -> probabilities [N, V]`, with N left free.

    Class names are in its metadata, `class_names`, as a JSON list.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    kernel, bias = (_in_full(np.asarray(model.params[name])) for name in ("kernel", "bias"))
    if kernel.nbytes + bias.nbytes > _MOST_BYTES:
        raise InputError(
            f"onnx: expected parameters of less than 2 GB, got {kernel.nbytes / 1e9:.1f} GB; "
            f"export to safetensors."
        )
    real = helper.np_dtype_to_tensor_dtype(kernel.dtype)
    taken = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[dtype]
    scale = np.asarray(model.feature_scale, kernel.dtype)
    nodes = [
        helper.make_node("Flatten", ["features"], ["flat"], axis=1),
        helper.make_node("Cast", ["flat"], ["real"], to=real),
        helper.make_node("Mul", ["real", "feature_scale"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "kernel", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    arrays = {"feature_scale": scale, "kernel": kernel, "bias": bias}
    shape = ["N", *model.feature_shape]
    graph = helper.make_graph(
        nodes,
        "softmax_classifier",
        [helper.make_tensor_value_info("features", taken, shape)],
        [helper.make_tensor_value_info("probabilities", real, ["N", len(model.class_names)])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        doc_string=f"Features {shape} as stored ({dtype}) to the probabilities of "
        f"{len(model.class_names)} classes; {math.prod(model.feature_shape)} numbers an example.",
    )
    proto = helper.make_model(
        graph,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="jax_softmax",
        producer_version=jax_softmax.__version__,
    )
    helper.set_model_props(proto, {"class_names": json.dumps(model.class_names)})
    checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _in_full(array: np.ndarray) -> np.ndarray:
    """Half precision in float32, in which it loses nothing; ONNX's Gemm has no bfloat16."""
    return array if array.dtype == np.float64 else array.astype(np.float32)
