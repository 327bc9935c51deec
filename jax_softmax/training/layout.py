"""How a step is laid out for the device that it runs on. The numbers are the same to rounding.

What decided is in docs/performance.md.
"""

from __future__ import annotations

from typing import NamedTuple

import jax


class Layout(NamedTuple):
    """What a kind of device likes.

    Attributes:
      classes_first: logits are `[V, N]`, kept so by a barrier and of scaled features, rather than
        `[N, V]` and of a scaled kernel.
      gathered: numbers of features that are gathered at once, for several steps, from more.
      piece: numbers of features in a piece of a large batch.
      unroll: steps to a turn of a loop over steps.
      epochs: full-batch epochs to a loop of known length.
      numbers_per_call: numbers read in one compiled call: enough that the call costs nothing beside
        it, few enough that progress is seen and a diverged run stops soon: a third of a second.
    """

    classes_first: bool
    gathered: int
    piece: int
    unroll: int
    epochs: int
    numbers_per_call: int


# Pieces of 4 MB as float32 stay in the cache. Shuffled rows come from memory one after another, and
# each is waited for, unless they are gathered with nothing computed of them.
CPU = Layout(
    classes_first=True, gathered=2**20, piece=2**20, unroll=1, epochs=1, numbers_per_call=2**27
)

# A step is a dozen short kernels, each of which costs its launch. So no more pieces than memory
# asks for (1 GB as float32), and four steps to a turn, which share some launches. A loop whose
# length the program cannot know stops after each turn to ask: 16 epochs to one question.
ACCELERATOR = Layout(
    classes_first=False, gathered=0, piece=2**28, unroll=4, epochs=16, numbers_per_call=2**31
)


def layout_for(array: jax.Array) -> Layout:
    """The layout of the devices that hold the array."""
    on_cpu = all(device.platform == "cpu" for device in array.devices())
    return CPU if on_cpu else ACCELERATOR
