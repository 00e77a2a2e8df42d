"""`dd2d import-weights`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import at_least_one, check_new, command, print_json
from dd2d_jax.util.errors import UserError


def add_import_weights(commands: Any) -> None:
    """Put `dd2d import-weights` among the commands."""
    parser = command(
        commands,
        "import-weights",
        _import_weights,
        "convert the DD2D authors' PyTorch weights into a checkpoint",
        "dd2d import-weights model.pt paper_weights",
    )
    parser.add_argument(
        "file",
        type=Path,
        help="state dict: .pt (needs the extra `torch`), or .npz with the same names",
    )
    parser.add_argument("directory", type=Path, help="a new folder for the checkpoint")
    parser.add_argument(
        "--heads",
        type=at_least_one,
        default=4,
        metavar="N",
        help="attention heads of the network (default: 4)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _import_weights(args: argparse.Namespace) -> None:
    check_new(args.directory)
    from dd2d_jax.networks.paper_weights import import_weights

    try:
        made = import_weights(args.file, args.directory, args.heads)
    except ImportError as error:
        raise UserError(str(error)) from error
    if args.json:
        print_json(made)
        return
    print(
        f"{made['checkpoint']}: {made['parameters']:,} parameters, width {made['width']}, "
        f"{made['layers']} layers, {made['heads']} heads"
    )
