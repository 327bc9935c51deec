"""The bar of `fit(progress=True)`: the one thing that is shown outside the commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from jax_softmax._extras import needs_train_extra
from jax_softmax.training import processes

OnProgress = Callable[[dict[str, float]], None]


@contextlib.contextmanager
def progress_shown(
    progress: bool, epochs: int, on_progress: OnProgress | None
) -> Iterator[OnProgress | None]:
    """A bar of epochs with the latest losses, on standard error or in a notebook.

    Args:
      progress: whether it is shown; of several processes the first shows it.
      epochs: how many there are in all.
      on_progress: is called besides.

    Yields:
      What to call with the latest record of the history in place of `on_progress`.

    Raises:
      InputError: if tqdm is not installed.
    """
    if not progress or not processes.is_first():
        yield on_progress
        return
    with needs_train_extra():
        from tqdm.auto import tqdm
    with tqdm(total=epochs, desc="training", unit="epoch") as bar:

        def move(record: dict[str, float]) -> None:
            bar.n = round(record["epoch"], 2)  # of a stream a fraction
            bar.set_postfix_str(_losses(record), refresh=False)
            bar.refresh()
            if on_progress is not None:
                on_progress(record)

        yield move


def _losses(record: dict[str, float]) -> str:
    words = f"loss {record['train_loss']:.4f}"
    if "validation_loss" in record:
        words += (
            f", held-out {record['validation_loss']:.4f} "
            f"(accuracy {record['validation_accuracy']:.4f})"
        )
    return words
