"""Changes to bokeh's own models: panel's callbacks do not hold the lock that these need."""

from __future__ import annotations

from collections.abc import Callable

import panel as pn


def locked(change: Callable[[], None], shown: pn.viewable.Viewable | None = None) -> None:
    """Make a change as soon as the lock is held; in a notebook, where there is none, at once.

    shown: what a notebook is to draw again.
    """
    document = pn.state.curdoc
    if document is not None and document.session_context is not None:
        document.add_next_tick_callback(change)
        return
    change()
    if shown is not None:
        pn.io.push_notebook(shown)
