"""Progress on the terminal: a bar, the rate and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(
    items: Iterable[T],
    total: int | None,
    what: str,
    per: str = "s",
    weight: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """`items`, with a bar, the rate per "s" or "min" and the time left on stderr.

    weight: how many of `total` an item counts for.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s" if per == "s" else "{task.fields[rate]:.1f}/min"),
        TimeRemainingColumn(),
    )
    unit = {"s": 1, "min": 60}[per]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, rate=0)
        start, done = time.monotonic(), 0
        for item in items:
            yield item
            done += weight(item)
            bar.update(task, completed=done, rate=unit * done / (time.monotonic() - start))
