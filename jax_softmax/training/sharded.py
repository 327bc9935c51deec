"""A step over several devices: examples spread over the mesh axis `data`, classes over `model`.

The batches are those of one device. What does not divide is filled up: with examples of the label
-1, which no sum counts, and with classes whose parameters and gradients are 0. The optimiser sees
neither: it gets arrays of the true shapes, so that its random numbers, means and norms are those of
one device. XLA keeps such an array spread though it does not divide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax.ops import linear_softmax_cross_entropy
from jax_softmax.training.layout import Layout
from jax_softmax.training.mesh import DATA, MODEL, padded, place
from jax_softmax.training.processes import on_host
from jax_softmax.training.programs import latest_programs
from jax_softmax.training.step import (
    Batches,
    Params,
    TrainState,
    divided,
    sums_in_pieces,
    sums_of_piece,
    weight_of,
)

# The label of examples that fill up a batch.
NO_LABEL = -1


class Spread(NamedTuple):
    """How a training is spread; constant in the compiled program.

    Attributes:
      mesh: the devices, with the axes `data` and `model`.
      examples: how many there are, without those that fill up.
      classes: likewise.
    """

    mesh: Mesh
    examples: int
    classes: int

    @property
    def axis_of_classes(self) -> str | None:
        """The mesh axis over which the classes are spread; None if each device has all."""
        return MODEL if self.mesh.shape[MODEL] > 1 else None

    def shapes(
        self, params: Mapping[str, Any], optimizer: optax.GradientTransformation
    ) -> TrainState:
        """The true shapes of a training's state, of filled up parameters or others."""
        true: Any = {
            name: jax.ShapeDtypeStruct((self.classes, *value.shape[1:]), value.dtype)
            for name, value in params.items()
        }
        return TrainState(true, jax.eval_shape(optimizer.init, true))

    def filled_up(self, tree: Any) -> Any:
        """A traced tree of arrays of the true shapes, with their classes filled up and spread."""
        missing = padded(self.classes, self.mesh.shape[MODEL]) - self.classes
        of_classes = P(self.axis_of_classes)

        def fill_up(x: jax.Array) -> jax.Array:
            if not self._has_classes(x):
                return lax.with_sharding_constraint(x, NamedSharding(self.mesh, P()))
            x = jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]) if missing else x
            return lax.with_sharding_constraint(x, NamedSharding(self.mesh, of_classes))

        return jax.tree.map(fill_up, tree)

    def updated(
        self,
        update: Callable[[TrainState, Params], TrainState],
        state: TrainState,
        gradients: Params,
        optimizer: optax.GradientTransformation,
    ) -> TrainState:
        """What `update` makes of a state and gradients that are filled up; it sees none of that."""
        shapes = self.shapes(state.params, optimizer)
        updated: TrainState = self.filled_up(
            update(cut(state, shapes), cut(gradients, shapes.params))
        )
        return updated

    def placed(self, tree: Any) -> Any:
        """A tree of whole arrays of the true shapes, in their places on the devices."""

        def put(x: Any) -> jax.Array:
            if self._has_classes(x):
                return place(self.mesh, self.axis_of_classes, on_host(x))
            whole = NamedSharding(self.mesh, P())
            # From the host: JAX takes nothing from one device to those of other processes.
            if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.device_put(on_host(x), whole)
            numbers = jax.device_put(on_host(jax.random.key_data(x)), whole)
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(x))

        return jax.tree.map(put, tree)

    def _has_classes(self, x: Any) -> bool:
        return np.ndim(x) > 0 and len(x) == self.classes and jnp.issubdtype(x.dtype, np.number)

    def take(self, data: Batches, rows: jax.Array) -> Batches:
        """The examples of these numbers, in that order, spread over the devices.

        Each device hands on those that it has; the sum has one term that is not 0.
        """
        over = self.mesh.shape[DATA]
        missing = padded(rows.size, over) - rows.size
        rows = jnp.pad(rows, (0, missing), constant_values=-1)

        def on_device(data: Batches, rows: jax.Array) -> Batches:
            held = data.labels.size
            rows = rows - lax.axis_index(DATA) * held
            here = (rows >= 0) & (rows < held)
            rows = jnp.where(here, rows, 0)

            def handed_on(x: jax.Array) -> jax.Array:
                found = x.at[rows].get(mode="promise_in_bounds")
                found = jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), found, 0)
                return found if over == 1 else lax.psum_scatter(found, DATA, tiled=True)

            found = data._replace(labels=data.labels - NO_LABEL).of_rows(handed_on)
            return found._replace(labels=found.labels + NO_LABEL)

        of_rows = _over_rows(data)
        taken: Batches = jax.shard_map(
            on_device, mesh=self.mesh, in_specs=(of_rows, P()), out_specs=of_rows
        )(data, rows)
        return taken

    def loss_and_gradients(
        self,
        params: Params,
        batch: Batches,
        count: int,
        layout: Layout,
        label_smoothing: float,
    ) -> tuple[jax.Array, Params]:
        """The mean cross-entropy of the `count` examples of a batch, and its gradients."""
        of_classes = P(self.axis_of_classes)
        sums: Any = functools.partial(sums_of_piece, ignore_index=NO_LABEL)
        if self.axis_of_classes is not None:
            sums = functools.partial(_sums_of_classes, classes=self.classes)
        if label_smoothing:
            sums = functools.partial(sums, label_smoothing=label_smoothing)

        def on_device(params: Params, batch: Batches) -> tuple[jax.Array, Params]:
            # As if each device had parameters of its own: their gradients are summed once, at the
            # end, and not in each piece.
            params = jax.tree.map(lambda x: lax.pcast(x, DATA, to="varying"), params)
            zero = lax.pcast(jnp.zeros((), params["bias"].dtype), DATA, to="varying")
            found = sums_in_pieces(params, batch, layout, sums, zero)
            by: int | jax.Array = count
            if batch.weights is not None:
                by = lax.psum(weight_of(batch), DATA)
            return jax.tree.map(lambda x: divided(lax.psum(x, DATA), by), found)

        found: tuple[jax.Array, Params] = jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=(of_classes, _over_rows(batch)),
            out_specs=(P(), of_classes),
        )(params, batch)
        return found


def _over_rows(batch: Batches) -> Any:
    """Over which axes the arrays of a batch are spread."""
    over: Any = P(DATA)
    return batch.of_rows(lambda _: over)._replace(scale=P())


def _sums_of_classes(
    params: Params, batch: Batches, layout: Layout, *, classes: int, label_smoothing: float = 0.0
) -> tuple[jax.Array, Params]:
    """The sum of the examples' cross-entropies, and its gradients by this device's classes."""
    dtype = params["bias"].dtype
    features = batch.features.astype(dtype) * batch.scale.astype(dtype)

    def total(params: Params) -> jax.Array:
        return linear_softmax_cross_entropy(
            features,
            params["kernel"],
            batch.labels,
            bias=params["bias"],
            kernel_layout="vd",
            ignore_index=NO_LABEL,
            axis_name=MODEL,
            num_classes=classes,
            label_smoothing=label_smoothing,
            sample_weight=batch.weights,
            reduction="sum",
        )

    return jax.value_and_grad(total)(params)


def cut(tree: Any, shapes: Any) -> Any:
    """A tree of filled up arrays, of the true shapes."""
    return jax.tree.map(
        lambda x, true: x if x.shape == true.shape else x[: true.shape[0]], tree, shapes
    )


@latest_programs("optimizer", "spread")
def initial_state_of(
    params: Params, *, optimizer: optax.GradientTransformation, spread: Spread
) -> Any:
    """The optimiser's own state, made in its places on the devices."""
    true = cut(params, spread.shapes(params, optimizer).params)
    return spread.filled_up(optimizer.init(true))
