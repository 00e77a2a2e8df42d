"""Serves the window to a browser on this machine and to nobody else."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

import panel as pn

from dd2d_jax.app.session import Session, library_of, model_of
from dd2d_jax.app.style import PAGE
from dd2d_jax.app.window import Window

_ADDRESS = "127.0.0.1"
# Bytes of a message from the browser: a file comes in pieces of 10 MB.
_MESSAGE = 2**25
# A page that was sent may take so long to speak to the server, ms.
_PATIENCE = 120_000
# Where the server has the styles of panel, seen from the page.
_STYLES = "static/extensions/panel/"


def serve(
    file: str | None,
    told: dict[str, Any],
    port: int | None,
    ready: Callable[[str], None],
    **options: Any,
) -> None:
    """Serve until the process is ended; the window works in the current folder.

    The address has a token that nobody can guess, so that other programs and pages on this machine
    cannot use the window. Scripts and styles come from the installed packages.

    Args:
        file: pattern to begin with.
        told: options of `Asked` for this file.
        port: None takes a free one.
        ready: is told the address once the window can be opened.
        options: library, checkpoint and calibration, see `Session`.
    """
    pn.extension("filedropper", raw_css=[PAGE])
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    port = port or _free_port()
    token = secrets.token_urlsafe(24)

    warm = threading.Thread(target=_warm, args=(options,), daemon=True)

    def page() -> pn.viewable.Viewable:
        local_styles()
        window = Window(Session(**options))
        # Not before: two threads that import at once may each see modules that are half made.
        if warm.ident is None:
            warm.start()
        if file is not None:
            pn.state.onload(lambda: window.open(file, **told))
        return window.layout

    server = pn.serve(
        {"app": page}, port=port, address=_ADDRESS, prefix=token, show=False, start=False,
        websocket_origin=f"{_ADDRESS}:{port}", title="dd2d", websocket_max_message_size=_MESSAGE,
        unused_session_lifetime_milliseconds=_PATIENCE, verbose=False,
    )  # fmt: skip
    server.start()
    ready(f"http://{_ADDRESS}:{port}/{token}/app")
    server.io_loop.start()


def local_styles() -> None:
    """Take styles from this server: panel sees to it in a page, but not when a browser connects
    again, for whose new session it would have its own server on the internet asked.
    """
    pn.state.curdoc.template_variables["dist_url"] = _STYLES


def _warm(options: dict[str, Any]) -> None:
    """Load what the first search needs while the browser draws the page; errors show there."""
    try:
        model_of(options.get("checkpoint"))
        library_of(options.get("library"))
    except ValueError:
        pass


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_ADDRESS, 0))
        return one.getsockname()[1]
