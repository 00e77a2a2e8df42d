"""Progress on the terminal: what is being done and for how long; a bar where there is a count."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
_watcher: ContextVar[Callable[[str], None] | None] = ContextVar("watcher", default=None)


def stage(what: str) -> None:
    """Tell whoever watches what is done next; nobody does by default."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(what)


@contextlib.contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Tell each `stage` within to `say`, in the thread that it happens in."""
    token = _watcher.set(say)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextlib.contextmanager
def watched(say: Callable[[str], None]) -> Iterator[None]:
    """Show each `stage` that is told within.

    On a terminal a line on stderr says what is being done and for how long, and is gone at the
    end; piped, each stage is a plain line through `say`.
    """
    if not sys.stderr.isatty():
        with telling(say):
            yield
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as line:
        task = line.add_task("", total=None)
        with telling(lambda what: line.reset(task, description=escape(what))):
            yield


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
