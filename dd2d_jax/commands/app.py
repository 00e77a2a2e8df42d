"""`dd2d app`: the window in the browser."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    add_checkpoint,
    at_least_one,
    command,
    energy,
    open_in_browser,
    positive,
    say,
)
from dd2d_jax.util.errors import UserError


def add_app(commands: Any) -> None:
    """Put `dd2d app` among the commands."""
    parser = command(
        commands,
        "app",
        _app,
        "work on a pattern, its spots and its candidates interactively in the browser",
        "dd2d app saed.tif",
    )
    parser.add_argument(
        "file",
        nargs="?",
        help="image or spot list to open first (default: choose it in the window)",
    )
    parser.add_argument(
        "--scale",
        type=positive,
        metavar="S",
        help="scale of FILE in 1/angstrom per pixel (default: from the file)",
    )
    parser.add_argument(
        "--energy",
        type=energy,
        metavar="KEV",
        help="electron energy of FILE in keV (default: from the file)",
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="calibration of the images, from `dd2d calibrate`"
    )
    parser.add_argument(
        "--library", metavar="DIR", help="library from `dd2d index` (default: the package's own)"
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--port", type=at_least_one, metavar="N", help="port on this machine (default: a free one)"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address without opening it"
    )


def _app(args: argparse.Namespace) -> None:
    if args.file is not None and not Path(args.file).exists():
        raise UserError(f"{args.file}: no such file")
    if importlib.util.find_spec("panel") is None:
        raise UserError(
            "the window needs panel: in the clone of the repository type  pip install '.[app]'"
        )
    from dd2d_jax.app.serve import serve

    def ready(address: str) -> None:
        say(f"{address}\nopen this address in a browser on this machine; Ctrl-C stops the window")
        if not args.no_browser:
            open_in_browser(address)

    serve(
        args.file, {"scale": args.scale, "energy": args.energy}, args.port, ready,
        library=args.library, checkpoint=args.checkpoint, calibration=args.calibration,
    )  # fmt: skip
