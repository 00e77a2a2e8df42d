"""`python -m train.main --config=configs/base.py [--workdir=DIR] [--config.KEY=VALUE ...]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The configuration, e.g. configs/base.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results are written; default: workdir/NAME_OF_CONFIG."
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    """Train with the given flags."""
    from train import loop

    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file that it writes
    name = Path(flags.FLAGS["config"].config_filename).stem
    try:
        loop.run(CONFIG.value, Path(WORKDIR.value or Path("workdir") / name))
    except (ValueError, OSError) as error:
        if DEBUG.value:
            raise
        _fail(str(error))


def parse(argv: list[str]) -> list[str]:
    """Parse the flags; one that cannot be used is told in one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error} (--help lists the flags)")
    except OSError as error:  # config_flags lets this and the next through
        _fail(str(error))
    except AttributeError as error:
        if "--debug" in argv:
            raise
        key = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error
        _fail(f"the config has no such key: {key}")


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
