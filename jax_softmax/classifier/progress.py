"""Shows progress as `verbose` asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(
    name: str,
    most: int,
    *,
    verbose: bool | int | Callable[[int, float], None],
    number: str = "loss",
) -> Iterator[Callable[[int, float], None] | None]:
    """A bar for what ends after `most` steps, or before.

    Args:
      name: what stands before the bar.
      most: how many steps there are at most. What ends before fills the bar too.
      verbose: whether to show anything; or what is told in place of a bar.
      number: what stands behind the bar.

    Yields:
      What takes how many steps are done, and the number; None if nothing is shown.
    """
    if not verbose:
        yield None
        return
    if callable(verbose):
        yield verbose
        return
    from tqdm.auto import tqdm

    with tqdm(total=most, desc=name) as bar:

        def show(done: int, value: float) -> None:
            bar.set_postfix({number: f"{value:.4g}"}, refresh=False)
            bar.update(done - bar.n)

        yield show
        bar.total = bar.n  # closing shows it
