"""The console script `dd2d`: a command for each thing that a user does.

Results go to stdout, progress and errors to stderr. Exit status: 0, 1 for an error in what was
given, 2 for wrong usage, 130 when interrupted. JAX and its friends are imported when a
command runs, so that `dd2d --help` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from dd2d_jax import __version__
from dd2d_jax.commands.app import add_app
from dd2d_jax.commands.common import one_line, say
from dd2d_jax.commands.demo import add_demo
from dd2d_jax.commands.images import add_calibrate, add_pattern
from dd2d_jax.commands.libraries import add_enumerate, add_index, add_merge
from dd2d_jax.commands.measuring import add_evaluate, add_report, add_snapshots
from dd2d_jax.commands.retrieve import add_propose, add_retrieve
from dd2d_jax.commands.simulate import add_simulate
from dd2d_jax.commands.weights import add_import_weights
from dd2d_jax.util.cache import keep_compilations
from dd2d_jax.util.errors import Notice, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    Args:
        argv: the arguments after the program's name; None takes those of the process.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    args.typed = shlex.join(["dd2d", *argv])
    # JAX makes millions of small objects while it traces, hardly any of them garbage: looking
    # through them as often as Python does by default takes a tenth of the time.
    gc.set_threshold(100_000, 50, 50)
    try:
        with warnings.catch_warnings():
            if not args.debug:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", Notice)
                warnings.showwarning = lambda message, *_, **__: say(one_line(message))
            keep_compilations()
            args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, ValueError, OSError) as error:
        if args.debug:
            raise
        say(f"error: {one_line(error)}")
        return 1
    except Exception as error:
        if args.debug:
            raise
        say(f"error: {type(error).__name__}: {one_line(error)} (--debug shows where)")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dd2d",
        description="From a diffraction pattern to the 2D crystal that made it.",
        epilog="dd2d COMMAND --help shows the options of a command, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"dd2d-jax {__version__}")
    _add_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_demo,
        add_app,
        add_simulate,
        add_pattern,
        add_calibrate,
        add_index,
        add_enumerate,
        add_merge,
        add_retrieve,
        add_propose,
        add_evaluate,
        add_report,
        add_snapshots,
        add_import_weights,
    ):
        add(commands)
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    """An option that prints what a shell completes commands and options with."""
    what = "print the completion script for this shell"
    try:
        import shtab
    except ImportError:
        parser.add_argument(
            "--print-completion", action=_NoCompletion, choices=("bash", "zsh", "tcsh"), help=what
        )
        return
    shtab.add_argument_to(parser, "--print-completion", help=what)


class _NoCompletion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(
            "shell completion needs shtab: in the clone of the repository type  "
            "pip install '.[completion]'"
        )


if __name__ == "__main__":
    sys.exit(main())
