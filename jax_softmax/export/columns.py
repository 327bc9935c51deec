"""The columns of a table in an ONNX graph: each is an input, `[N, 1]`, as the table has it.

Of cells that are missing, numbers are NaN and words the empty string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jax_softmax._columns import Columns, NumberColumn, WordColumn
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto


class Graph:
    """Parts of a graph that are being collected."""

    def __init__(self) -> None:
        """None yet."""
        self.inputs: list[ValueInfoProto] = []
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: object) -> str:
        """Adds an array; its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds an operation; the name of what it gives."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def add_columns(graph: Graph, columns: Columns, real: int) -> str:
    """Adds the inputs of a table's columns; the name of the features `[N, D]` made of them.

    Args:
      graph: to add to.
      columns: of the model.
      real: ONNX's number of the features' dtype.

    Raises:
      InputError: if a column's name is also that of the result.
    """
    parts = [
        _words(graph, column, i, real)
        if isinstance(column, WordColumn)
        else _numbers(graph, column, i, real)
        for i, column in enumerate(columns.used)
    ]
    return graph.node("Concat", parts, ":features", axis=1)


def _input(graph: Graph, name: str, kind: int) -> str:
    from onnx import helper

    if name in ("probabilities", "") or name.startswith(":"):
        raise InputError(
            f"onnx: expected another name for column {name!r}, which the graph has for its own; "
            f"rename it in the table, and train again."
        )
    graph.inputs.append(helper.make_tensor_value_info(name, kind, ["N", 1]))
    return name


def _numbers(graph: Graph, column: NumberColumn, i: int, real: int) -> str:
    """`(cell - mean) / scale` in float64, as `Columns.encode` has it, then as the features are."""
    from onnx import TensorProto

    cells = _input(graph, column.name, TensorProto.DOUBLE)
    if column.fill is not None:
        missing = graph.node("IsNaN", [cells], f":{i}.missing")
        fill = graph.constant(f":{i}.fill", np.float64(column.fill))
        cells = graph.node("Where", [missing, fill, cells], f":{i}.filled")
    mean = graph.constant(f":{i}.mean", np.float64(column.mean))
    scale = graph.constant(f":{i}.scale", np.float64(column.scale))
    centred = graph.node("Sub", [cells, mean], f":{i}.centred")
    scaled = graph.node("Div", [centred, scale], f":{i}.scaled")
    return graph.node("Cast", [scaled], f":{i}.feature", to=real)


def _words(graph: Graph, column: WordColumn, i: int, real: int) -> str:
    """1 for the category that a cell is, 0 for the others; another word is 0 everywhere."""
    from onnx import TensorProto

    cells = _input(graph, column.name, TensorProto.STRING)
    meant = {} if column.fill is None else {"": column.fill}
    if set(column.categories) <= {"true", "false"}:  # as Python and pandas, and R, write them
        for written in (str.title, str.upper):
            meant |= {written(word): word for word in column.categories}
    if meant:
        meant |= {word: word for word in column.categories}
        cells = graph.node(
            "LabelEncoder",
            [cells],
            f":{i}.meant",
            domain="ai.onnx.ml",
            keys_strings=list(meant),
            values_strings=list(meant.values()),
            default_string="",
        )
    ones = graph.node(
        "OneHotEncoder",
        [cells],
        f":{i}.ones",
        domain="ai.onnx.ml",
        cats_strings=list(column.categories),
        zeros=1,
    )
    # [N, 1, categories]
    flat = graph.node("Flatten", [ones], f":{i}.flat", axis=1)
    return graph.node("Cast", [flat], f":{i}.feature", to=real)
