"""What the commands share: options and their checks, errors, and what is printed where."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dd2d_jax.util.errors import UserError

# Bytes of an image that takes a while.
_LARGE = 2**24


def command(
    commands: Any, name: str, run: Callable, summary: str, example: str
) -> argparse.ArgumentParser:
    """Parser of one command, whose options the caller adds; `run` gets what was typed."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    parser.set_defaults(run=run)
    return parser


def add_checkpoint(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The network."""
    parser.add_argument(
        "--checkpoint",
        required=required,
        metavar="DIR",
        help="folder of a training run"
        + ("" if required else " (default: the package's own weights)"),
    )


def add_image(parser: argparse.ArgumentParser) -> None:
    """How an image becomes a pattern, for every command that reads one; see `image_options`."""
    group = parser.add_argument_group("options for images")
    group.add_argument(
        "--scale",
        type=positive,
        metavar="S",
        help="scale in 1/angstrom per pixel (default: from the file)",
    )
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="calibration from `dd2d calibrate`, instead of --scale",
    )
    group.add_argument(
        "--energy",
        type=energy,
        metavar="KEV",
        help="energy of the electrons in keV (default: from the file)",
    )
    group.add_argument(
        "--centre",
        type=finite,
        nargs=2,
        metavar=("X", "Y"),
        help="column and row of the central beam in pixels (default: from the file, or from the "
        "symmetry of the pattern)",
    )
    group.add_argument(
        "--undistort",
        action="store_true",
        help="correct the distortion by fitting it to the pattern's own lattice",
    )
    group.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="image or .npy that is 0 where spots are ignored",
    )
    group.add_argument(
        "--no-beam-stop",
        action="store_true",
        help="treat dark areas as measured, not as a beam stop",
    )
    group.add_argument(
        "--width",
        type=positive,
        metavar="PX",
        help="standard deviation of a spot in pixels (default: from the image)",
    )
    group.add_argument(
        "--threshold",
        type=positive,
        metavar="T",
        help="lowest height of a spot, in standard deviations of the noise (default: 5.5)",
    )
    group.add_argument(
        "--gamma",
        type=positive,
        metavar="G",
        help="the grey levels are the counts to the power of G, 1 if they are counts (default: "
        "from the shape of the spots, otherwise fitted for each candidate)",
    )
    group.add_argument(
        "--max-radius",
        type=positive,
        metavar="PX",
        help="largest distance of a spot from the centre, in pixels",
    )


def image_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed of `add_image`, as arguments of `patterns.read`; the mask is read.

    Raises:
        PatternError: a mask that cannot be read, or that leaves hardly anything.
        FileNotFoundError: there is none.
    """
    finding = ("centre", "width", "threshold", "gamma", "max_radius")
    found = {
        name: getattr(args, name)
        for name in ("scale", "calibration", "energy", *finding)
        if getattr(args, name) is not None
    }
    if args.undistort:
        found["undistort"] = True
    if args.no_beam_stop:
        found["beam_stop"] = False
    if args.mask is not None:
        from dd2d_jax.images.patterns import read_mask

        found["mask"] = read_mask(args.mask)
    return found


def read_patterns(paths: Sequence[str], reading: dict[str, Any]) -> list[Any]:
    """Patterns of spot lists or images, with the images and what should be known, which is said."""
    from dd2d_jax.images.patterns import is_image, read

    out = []
    for path in paths:
        if Path(path).exists() and is_image(path) and Path(path).stat().st_size > _LARGE:
            say(f"{path}: {Path(path).stat().st_size / 2**20:.0f} MiB, finding its spots")
        out.append(read(path, **reading))
        for note in out[-1].notes:
            say(note)
    return out


def _number(what: str, accept: Callable[[float], bool], kind: type = float) -> Callable:
    """A converter for argparse: a finite number that is accepted."""

    def convert(text: str):
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (abs(value) < float("inf") and accept(value) and value == kind(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return kind(value)

    return convert


def energy(text: str) -> float:
    """A converter for argparse: an energy of an electron microscope, keV."""
    from dd2d_jax.images.image import checked_energy
    from dd2d_jax.util.errors import PatternError

    try:
        return checked_energy(positive(text))
    except PatternError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def part_of(text: str) -> tuple[int, int]:
    """A converter for argparse: I and N of I/N."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/2")
    return int(first), int(second)


def tilt_pairs(text: str) -> list[tuple[float, float]]:
    """A converter for argparse: angles in degrees, X,Y for each pattern."""
    try:
        pairs = [tuple(float(x) for x in pair.split(",")) for pair in text.split()]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 or not all(abs(x) < 90 for x in pair) for pair in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of angle pairs in degrees, such as '0,0 20,0'"
        )
    return pairs


positive = _number("a positive number", lambda x: x > 0)
not_negative = _number("a number of at least 0", lambda x: x >= 0)
finite = _number("a number", lambda x: True)
at_least_one = _number("a whole number of at least 1", lambda x: x >= 1, int)
at_least_zero = _number("a whole number of at least 0", lambda x: x >= 0, int)


def load_model(checkpoint: str | None) -> Any:
    """The network of a folder, None for the package's own."""
    from dd2d_jax.networks.trained import load

    return load(checkpoint)


@contextlib.contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the file's name before errors that do not say it."""
    try:
        yield
    except ValueError as error:
        if str(source) in str(error):
            raise
        raise UserError(f"{source}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an error says, in one line that may be printed."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # Names from files must not move the cursor.
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line or type(error).__name__


def check_file(option: str, path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Before the work begins: the file can be written."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; give the name of a file")
    check_above(f"{option} {path}: cannot be written", path.absolute().parent)


def check_new(directory: Path) -> None:
    """Before the work begins: nothing is overwritten, and the folder can be made."""
    if directory.exists() or directory.is_symlink():
        raise UserError(f"{directory}: exists already; choose another name or remove it")
    above = next(p for p in directory.absolute().parents if p.exists())
    check_above(f"{directory}: cannot be made", above)


def check_above(problem: str, above: Path) -> None:
    """Before the work begins: something can be made in a folder, else there is this problem."""
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{problem}, {above} is not a writable folder")


def open_in_browser(address: str) -> None:
    """Show a page where there is a screen; elsewhere a browser of the terminal would take over."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen or sys.platform in ("darwin", "win32"):
        import webbrowser

        webbrowser.open(address)


def say(line: str) -> None:
    """Tell how far it is, beside the results."""
    print(line, file=sys.stderr)


def print_json(value: Any) -> None:
    """Results for machines."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(table: Any) -> None:
    """Results for people."""
    from rich.console import Console

    # Piped into a file there is no width to keep to.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)
