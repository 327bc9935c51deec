"""Compiled programs of which only the latest are kept.

`jax.jit` keeps a program for each shape that it was ever called with. Each takes a hundred memory
maps, of which Linux allows a process 65,530: past them XLA crashes (docs/performance.md).
"""

from __future__ import annotations

import collections
import functools
import gc
import itertools
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import jax

from jax_softmax.ops._jit import forget_traces

P = ParamSpec("P")
R = TypeVar("R")

# Shapes and settings whose programs are kept, for each function: more than people go back and forth
# between, and few enough for the memory that they take.
MOST = 32
_DROPPED_TO_A_COLLECTION = 16
_dropped = itertools.count(1)


class LatestPrograms(Generic[P, R]):
    """`jax.jit` of a function that keeps the programs of the latest `MOST` shapes and settings.

    >>> import numpy as np
    >>> double = LatestPrograms(lambda x: 2 * x)
    >>> float(double(np.float32(3)))
    6.0
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        static_argnames: tuple[str, ...] = (),
        donate: str | None = None,
    ) -> None:
        """Wraps `function`.

        Args:
          function: to be compiled.
          static_argnames: of its settings, which are passed by keyword.
          donate: the argument whose arrays a program takes over for its results.
        """
        functools.update_wrapper(self, function)
        self._donate = donate
        self._function = function
        self._static = static_argnames
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> R:
        """Calls the function, compiled."""
        return self._program(arguments, options)(*arguments, **options)

    def _program(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        settings = tuple(options.get(name) for name in self._static)
        arrays = {name: value for name, value in options.items() if name not in self._static}
        leaves, structure = jax.tree.flatten((arguments, arrays))
        key = settings, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self.fresh()
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._drop_the_oldest()
            return self._kept[key]

    def _drop_the_oldest(self) -> None:
        self._kept.popitem(last=False)[1].clear_cache()
        # What was traced is in circles, and Python looks at old ones too seldom for its size; and
        # the losses inside have traces of their own.
        if next(_dropped) % _DROPPED_TO_A_COLLECTION == 0:
            forget_traces()
            gc.collect()

    def fresh(self) -> Any:
        """A `jax.jit` of its own: that of one function would share the programs of all."""

        @functools.wraps(self._function)
        def alone(*arguments: P.args, **options: P.kwargs) -> R:
            return self._function(*arguments, **options)

        return jax.jit(alone, static_argnames=self._static, donate_argnames=self._donate)


def latest_programs(
    *static_argnames: str, donate: str | None = None
) -> Callable[[Callable[P, R]], LatestPrograms[P, R]]:
    """`LatestPrograms` as a decorator."""
    return functools.partial(LatestPrograms, static_argnames=static_argnames, donate=donate)
