"""`python -m train.main --config=configs/base.py [--workdir=DIR] [--config.KEY=VALUE ...]`.

Several processes, each with the same command but its own number: --coordinator=HOST:PORT
--processes=N --process=I, or --distributed where a TPU pod, Slurm or Open MPI starts them.
Exit status: 0 done, 1 an error, 143 (SIGTERM) or 130 (Ctrl-C) stopped with everything saved: the
same command goes on.
"""

from __future__ import annotations

import os
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
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where several processes train together."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes train together.")
PROCESS = flags.DEFINE_integer("process", None, "The number of this process, from 0.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several processes that a TPU pod, Slurm or Open MPI tells of each other."
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    """Train with the given flags."""
    from dd2d_jax.util.cache import quiet_compiler

    quiet_compiler()
    from train import hosts, loop

    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file that it writes
    name = Path(flags.FLAGS["config"].config_filename).stem
    try:
        given = (COORDINATOR.value, PROCESSES.value, PROCESS.value)
        if DISTRIBUTED.value or given != (None, None, None):
            hosts.connect(*given)
        loop.run(CONFIG.value, Path(WORKDIR.value or Path("workdir") / name))
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        about = "interrupted; the same command resumes what was saved, or starts again"
        print(about, file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        if DEBUG.value:
            raise
        _fail(str(error))
    except RuntimeError as error:
        if DEBUG.value or "Unable to initialize backend" not in str(error):
            raise
        _fail(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: no such device can be used "
            f"here; unset it, or install the extra for it, pip install -e '.[cuda]' ({error})"
        )


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
