"""The console script `dd2d`: a command for each thing that a user does.

Results go to stdout, progress and errors to stderr. Exit status: 0, 1 for an error in what was
given, 2 for wrong usage, 130 when interrupted. JAX and its friends are imported when a
command runs, so that `dd2d --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dd2d_jax.cache import keep_compilations

_LEVELS = ("clean", "perturbed", "thermal", "measured")
_TABLES = ("lobato", "kirkland", "peng")
# Rows and columns of a simulated image.
_PIXELS = 512


class UserError(Exception):
    """Something that the user can put right; the message is one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    Args:
        argv: the arguments after the program's name; None takes those of the process.
    """
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            if not args.debug:
                warnings.simplefilter("ignore")
            keep_compilations()
            args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, ValueError, OSError) as error:
        if args.debug:
            raise
        _say(f"error: {_one_line(error)}")
        return 1
    except Exception as error:
        if args.debug:
            raise
        _say(f"error: {type(error).__name__}: {_one_line(error)} (--debug shows where)")
        return 1
    return 0


def _one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # Names from files must not move the cursor.
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dd2d",
        description="From a diffraction pattern to the 2D crystal that made it.",
        epilog="dd2d COMMAND --help says more, with an example.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_simulate,
        _add_pattern,
        _add_calibrate,
        _add_index,
        _add_enumerate,
        _add_merge,
        _add_retrieve,
        _add_propose,
        _add_evaluate,
        _add_report,
        _add_snapshots,
        _add_import_weights,
    ):
        add(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable, summary: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def _add_simulate(commands: Any) -> None:
    parser = _command(
        commands,
        "simulate",
        _simulate,
        "simulate the diffraction pattern of a 2D crystal",
        "dd2d simulate MoS2.cif --energy 80 --q-max 1.5 --output MoS2.csv --plot MoS2.png",
    )
    parser.add_argument("structure", help="CIF, POSCAR, extended XYZ or XSF file of one layer")
    beam = parser.add_mutually_exclusive_group()
    beam.add_argument(
        "--energy", type=_positive, default=80.0, metavar="KEV", help="electrons, keV (80)"
    )
    beam.add_argument("--xrays", type=_positive, metavar="WAVELENGTH", help="X-rays, angstrom")
    parser.add_argument(
        "--q-max", type=_positive, default=1.5, help="1/angstrom, q = 1/d without 2 pi (1.5)"
    )
    parser.add_argument(
        "--b-iso", type=_not_negative, default=0.5, metavar="B", help="angstrom^2 (0.5)"
    )
    parser.add_argument(
        "--tilt",
        type=_finite,
        nargs=2,
        default=(0.0, 0.0),
        metavar=("X", "Y"),
        help="degrees, about x and then about y, of the layer as the file has it (0 0)",
    )
    parser.add_argument(
        "--table", choices=_TABLES, default="lobato", help="form factors of electrons (lobato)"
    )
    parser.add_argument(
        "--method",
        choices=("kinematic", "multislice"),
        default="kinematic",
        help="multislice for what scatters electrons more than once (kinematic)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="all spots, .csv or .json")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw layer and pattern, .png")
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="the pattern on a detector, .tif or .npy"
    )
    parser.add_argument(
        "--dose", type=_positive, metavar="N", help="with --image: N counts, with their noise"
    )
    parser.add_argument("--json", action="store_true", help="print all spots as JSON")


def _add_pattern(commands: Any) -> None:
    parser = _command(
        commands,
        "pattern",
        _pattern,
        "find the spots of a diffraction image and their lattice",
        "dd2d pattern saed.tif --scale 0.0052 --output spots.csv --plot steps.png",
    )
    parser.add_argument(
        "image", type=Path, help=".png .jpg .tif .npy .dm3 .dm4 .emd .mrc .blo .hspy or .zspy"
    )
    _add_scale(parser)
    parser.add_argument(
        "--undistort", action="store_true", help="fit the distortion to the pattern's own lattice"
    )
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="image or .npy, 0 where not to look"
    )
    parser.add_argument(
        "--no-beam-stop", action="store_true", help="take dark areas for what they show"
    )
    parser.add_argument(
        "--width", type=_positive, metavar="PX", help="of a spot, standard deviation (found)"
    )
    parser.add_argument(
        "--threshold", type=_positive, default=7.0, metavar="T", help="in sigma of the noise (7)"
    )
    parser.add_argument(
        "--max-radius", type=_positive, metavar="PX", help="no spots farther from the centre"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="all spots, .csv or .json")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw every step, .png")
    parser.add_argument("--json", action="store_true", help="print lattice and spots as JSON")


def _add_scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale", type=_positive, metavar="S", help="of an image, 1/angstrom per pixel"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="of an image, from `dd2d calibrate`"
    )
    parser.add_argument(
        "--centre",
        type=_finite,
        nargs=2,
        metavar=("X", "Y"),
        help="column and row of the central beam in an image, pixels (found by symmetry)",
    )


def _add_calibrate(commands: Any) -> None:
    parser = _command(
        commands,
        "calibrate",
        _calibrate,
        "find scale and distortion of a camera length by the rings of a known polycrystal",
        "dd2d calibrate gold.tif --material Au --output camera.json",
    )
    parser.add_argument("image", type=Path, help="image of a ring pattern, as in dd2d pattern")
    parser.add_argument(
        "--material",
        default="Au",
        metavar="NAME",
        help="Ag, Al, Au, Cu, Fe, Ni, Pd, Pt, Si, W, graphite, or a CIF file (Au)",
    )
    parser.add_argument(
        "--scale", type=_positive, metavar="S", help="about, to 15 %%, 1/angstrom per pixel"
    )
    parser.add_argument(
        "--centre", type=_finite, nargs=2, metavar=("X", "Y"), help="about, column and row, pixels"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the calibration, .json")
    parser.add_argument("--json", action="store_true", help="print the calibration as JSON")


def _add_index(commands: Any) -> None:
    parser = _command(
        commands,
        "index",
        _index,
        "build a library of crystals that `dd2d retrieve` searches; started again, it goes on "
        "where it was ended",
        "dd2d index crystals.db my_library --checkpoint runs/base\n"
        "  dd2d index enumerate:1000000 million --part 1/2 & dd2d index enumerate:1000000 million "
        "--part 2/2",
    )
    parser.add_argument(
        "source",
        help="ASE database (a file, or postgresql://USER:PASSWORD@HOST/NAME), folder or file of "
        "structures, DD2D JSON file, or a named source: prototypes, c2db, jarvis_2d, enumerate:N",
    )
    parser.add_argument(
        "directory", type=Path, help="a new folder for the library, or an unfinished one"
    )
    _add_checkpoint(parser)
    parser.add_argument(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="this process makes every N-th part, from the I-th; run all N of them (1/1)",
    )
    parser.add_argument(
        "--append", action="store_true", help="add the source to the library that is there"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where prepared data sets are kept")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_enumerate(commands: Any) -> None:
    parser = _command(
        commands,
        "enumerate",
        _enumerate,
        "make up crystals, prototypes with all elements that their places may take; "
        "`dd2d index enumerate:N DIR` takes them without a database between",
        "dd2d enumerate crystals.db --count 20000",
    )
    parser.add_argument("out", type=Path, metavar="OUT.db", help="a new ASE database")
    parser.add_argument(
        "--count",
        type=_count,
        default=20_000,
        metavar="N",
        help="crystals, those included that are left out as two atoms are too close (20000)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_merge(commands: Any) -> None:
    parser = _command(
        commands,
        "merge",
        _merge,
        "make one library of several",
        "dd2d merge first_library second_library both",
    )
    parser.add_argument("libraries", nargs="+", type=Path, metavar="LIBRARY", help="to be merged")
    parser.add_argument("directory", type=Path, help="a new folder for the library")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_retrieve(commands: Any) -> None:
    parser = _command(
        commands,
        "retrieve",
        _retrieve,
        "find the crystals of a library that explain a pattern best",
        "dd2d retrieve saed.tif --scale 0.0052 --elements Mo,S --refine --output found\n"
        "  dd2d retrieve a.csv b.csv --tilts '0,0 20,0' --refine --page both.html\n"
        "  dd2d retrieve my_patterns --calibration camera.json --output my_results",
    )
    parser.add_argument(
        "pattern",
        nargs="+",
        help="spot list (.csv, .txt, .json, .npy; 1/angstrom) or image (.png, .tif); several of "
        "one crystal with --tilts; a folder of them, each on its own, with --output: started "
        "again, it goes on where it was ended",
    )
    _add_scale(parser)
    parser.add_argument(
        "--scale-error",
        type=_not_negative,
        default=0.02,
        metavar="E",
        help="how wrong the scale may be, relative; 1: known to a factor 2 (0.02)",
    )
    parser.add_argument(
        "--tilts",
        type=_tilts,
        metavar="'X,Y ...'",
        help="of several patterns of one crystal, degrees about x and y, one pair for each",
    )
    _add_search(parser)
    parser.add_argument(
        "--rerank",
        type=_count_or_none,
        default=100,
        metavar="N",
        help="how many of the network's candidates are simulated and compared; 0: none (100)",
    )
    parser.add_argument(
        "--refine", action="store_true", help="fit strain, atoms and B of the first K candidates"
    )
    parser.add_argument(
        "--propose", action="store_true", help="crystals that the library does not hold as well"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="a page that shows what was found, .html"
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    """What is searched, and where what is found goes."""
    parser.add_argument("--library", metavar="DIR", help="from `dd2d index` (the package's own)")
    _add_checkpoint(parser)
    parser.add_argument("-k", type=_count, default=10, metavar="K", help="candidates (10)")
    parser.add_argument("--elements", metavar="Mo,S", help="only crystals of these elements")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="new folder for CIF, POSCAR, JSON, CSV and PNG"
    )
    parser.add_argument("--json", action="store_true", help="print the candidates as JSON")


def _add_propose(commands: Any) -> None:
    parser = _command(
        commands,
        "propose",
        _propose,
        "find crystals that explain a pattern, those that the library does not hold as well",
        "dd2d propose pattern.csv --library my_library --elements Mo,S --output proposed",
    )
    parser.add_argument(
        "pattern", help="spot list (.csv, .txt, .json, .npy; 1/angstrom) or image (.png, .tif)"
    )
    parser.add_argument(
        "--scale", type=_positive, metavar="S", help="1/angstrom per pixel, needed for images"
    )
    _add_search(parser)
    parser.add_argument(
        "--count", type=_count, default=2000, metavar="N", help="proposals to simulate (2000)"
    )


def _add_evaluate(commands: Any) -> None:
    parser = _command(
        commands,
        "evaluate",
        _evaluate,
        "measure top-1/3/5/10/50 in percent and milliseconds a query, three methods side by side",
        "dd2d evaluate --checkpoint runs/base --queries test.db --library all.db --level clean",
    )
    _add_checkpoint(parser, required=True)
    parser.add_argument(
        "--queries", required=True, metavar="Q.db", help="crystals to find; uids as in the library"
    )
    parser.add_argument(
        "--library",
        required=True,
        metavar="L.db",
        help="crystals to search: a database, or a folder from dd2d index",
    )
    parser.add_argument(
        "--level", choices=_LEVELS, default="clean", help="how the queries are disturbed (clean)"
    )
    parser.add_argument(
        "--snapshots", metavar="S.db", help="from `dd2d snapshots`: the queries of --level thermal"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the disturbance (0)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="OUT", help="print JSON, or write it to OUT"
    )


def _add_report(commands: Any) -> None:
    parser = _command(
        commands,
        "report",
        _report,
        "write a page with the tables and figures of the paper, made for a checkpoint",
        "dd2d report --checkpoint runs/base --out runs/base_report",
    )
    _add_checkpoint(parser, required=True)
    parser.add_argument(
        "--queries", metavar="Q.db", help="crystals to find (the checkpoint's own test.db)"
    )
    parser.add_argument(
        "--library", metavar="L.db", help="crystals to search; the queries' uids (the queries)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), metavar="DIR", help="a new folder (report)"
    )
    parser.add_argument(
        "--ablation",
        nargs="+",
        default=(),
        metavar="DIR",
        help="checkpoints to compare with it, on the same queries",
    )
    parser.add_argument(
        "--snapshots", metavar="S.db", help="from `dd2d snapshots`: adds the level thermal"
    )
    parser.add_argument(
        "--crystal", metavar="UID", help="whose attention is drawn (the first of 3 to 6 atoms)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the disturbance (0)")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")


def _add_snapshots(commands: Any) -> None:
    parser = _command(
        commands,
        "snapshots",
        _snapshots,
        "make snapshots of crystals by molecular dynamics, for `dd2d evaluate --level thermal`; "
        "started again, it goes on where it was ended",
        "dd2d snapshots test.db thermal.db --calculator chgnet --temperature 300",
    )
    parser.add_argument("source", help="crystals, as `dd2d index` takes them")
    parser.add_argument("out", type=Path, metavar="OUT.db", help="ASE database, begun or gone on")
    parser.add_argument(
        "--calculator",
        required=True,
        metavar="NAME",
        help="chgnet, sevennet, emt, or module:function, which returns an ASE calculator",
    )
    parser.add_argument("--temperature", type=_positive, default=300.0, metavar="T", help="K (300)")
    parser.add_argument(
        "--time",
        type=_positive,
        default=1.0,
        metavar="T",
        help="ps before a crystal's first snapshot, and between two (1)",
    )
    parser.add_argument(
        "--snapshots", type=_count, default=1, metavar="N", help="of each crystal (1)"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="the source's first N crystals")
    parser.add_argument(
        "--seed", type=_count_or_none, default=0, help="of velocities and thermostat (0)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where prepared data sets are kept")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_import_weights(commands: Any) -> None:
    parser = _command(
        commands,
        "import-weights",
        _import_weights,
        "make a checkpoint of the DD2D authors' PyTorch weights",
        "dd2d import-weights model.pt paper_weights",
    )
    parser.add_argument(
        "file", type=Path, help="state dict: .pt (needs the extra `torch`) or .npz, names the same"
    )
    parser.add_argument("directory", type=Path, help="a new folder for the checkpoint")
    parser.add_argument(
        "--heads", type=_count, default=4, metavar="N", help="attention heads of the network (4)"
    )
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def _add_checkpoint(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument(
        "--checkpoint",
        required=required,
        metavar="DIR",
        help="folder of a training run" + ("" if required else " (the package's own weights)"),
    )


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


def _part(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/2")
    return int(first), int(second)


def _tilts(text: str) -> list[tuple[float, float]]:
    try:
        pairs = [tuple(float(x) for x in pair.split(",")) for pair in text.split()]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 or not all(abs(x) < 90 for x in pair) for pair in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not pairs of angles in degrees, such as '0,0 20,0'"
        )
    return pairs


_positive = _number("a positive number", lambda x: x > 0)
_not_negative = _number("a number of at least 0", lambda x: x >= 0)
_finite = _number("a number", lambda x: True)
_count = _number("a whole number of at least 1", lambda x: x >= 1, int)
_count_or_none = _number("a whole number of at least 0", lambda x: x >= 0, int)


def _simulate(args: argparse.Namespace) -> None:
    import diffraction as dx
    from dd2d_jax import structures
    from dd2d_jax.output import pattern_table
    from dd2d_jax.patterns import pattern_dict, write_pattern

    _check_file("--output", args.output, (".csv", ".json"))
    _check_file("--plot", args.plot, (".png", ".pdf", ".svg"))
    _check_file("--image", args.image, (".tif", ".tiff", ".npy"))
    if args.dose and not args.image:
        raise UserError("--dose is of an image: give --image FILE, too")
    if args.xrays and (args.method == "multislice" or args.table != "lobato"):
        raise UserError("--method multislice and --table are for electrons, not for --xrays")
    with _naming(args.structure):
        atoms = structures.read_structure(args.structure)
        structures.layer(atoms)  # refuses what is no layer; tilt and hk are those of the file
        crystal = dx.Crystal.from_ase(atoms)
        beam = dx.Xrays(args.xrays) if args.xrays else dx.Electrons(args.energy, args.table)
        conditions = (crystal, beam, args.q_max, args.b_iso, tuple(args.tilt))
        pattern = dx.simulate(*conditions, method=args.method)
    if not bool(pattern.mask.any()):
        raise UserError(f"{args.structure}: no spot within q_max = {args.q_max:g} 1/angstrom")
    if args.method == "kinematic" and not args.xrays:
        from diffraction.multislice import KINEMATIC_LIMIT

        error = float(dx.kinematic_error(*conditions))
        if error > KINEMATIC_LIMIT:
            _say(f"multiple scattering changes this pattern by {error:.0%}: --method multislice")
    if args.output:
        write_pattern(pattern, args.output)
    if args.plot:
        from dd2d_jax.figures import plot_pattern_and_structure, save

        save(plot_pattern_and_structure(crystal, pattern), args.plot)
    if args.image:
        _write_image(pattern, args)
    if args.json:
        _print_json(pattern_dict(pattern))
    else:
        _print_table(pattern_table(pattern))


def _write_image(pattern: Any, args: argparse.Namespace) -> None:
    import jax
    import numpy as np

    import diffraction as dx
    from dd2d_jax.readers import write_image

    scale = float(f"{2.2 * args.q_max / _PIXELS:.3g}")
    image = dx.render(pattern, (_PIXELS, _PIXELS), scale, fwhm=4 * scale)
    if args.dose:
        image = dx.counts(jax.random.key(0), image, args.dose)
    write_image(np.asarray(image, np.float32), args.image, scale)
    _say(f"{args.image}: {_PIXELS} x {_PIXELS} pixels of {scale:g} 1/angstrom")


def _pattern(args: argparse.Namespace) -> None:
    import numpy as np

    from dd2d_jax import lattice
    from dd2d_jax.measure import measure
    from dd2d_jax.output import lattice_dict, measured_table
    from dd2d_jax.patterns import is_image, pattern_dict, write_pattern
    from dd2d_jax.readers import read_image

    _check_file("--output", args.output, (".csv", ".json"))
    _check_file("--plot", args.plot, (".png", ".pdf", ".svg"))
    for path in (args.image, args.mask):
        if path is not None and not path.exists():
            raise UserError(f"{path}: no such file")
        if path is not None and not is_image(path):
            raise UserError(f"{path}: no image; dd2d pattern --help names the formats")
    measured = measure(
        args.image,
        args.scale,
        args.centre,
        args.calibration,
        args.undistort,
        mask=None if args.mask is None else read_image(args.mask).pixels != 0,
        width=args.width,
        threshold=args.threshold,
        max_radius=args.max_radius,
        beam_stop=not args.no_beam_stop,
    )
    for note in measured.image.notes:
        _say(note)
    try:
        found, why = lattice.find(measured.pattern), ""
    except lattice.PatternError as error:
        found, why = None, f"{args.image}: {error}"
    # Whether or not there is a lattice: a person may want to see why.
    if args.output:
        write_pattern(measured.pattern, args.output)
    if args.plot:
        from dd2d_jax.diagnostics import plot_steps
        from dd2d_jax.figures import save

        save(plot_steps(measured, found, why), args.plot)
    if found is None:
        raise UserError(why)
    if args.json:
        spots = measured.spots
        _print_json(
            {
                "lattice": lattice_dict(found),
                "centre": [float(x) for x in spots.centre],
                "scale": np.broadcast_to(measured.mapping.scale, 2).tolist(),
                "ellipticity": measured.mapping.ellipticity,
                "axis": measured.mapping.axis,
                "radial": measured.mapping.radial,
                "energy": measured.image.energy,
                "width": spots.width,
                "rejected": len(spots.rejected),
                **pattern_dict(measured.pattern),
                "pixels": spots.position.tolist(),
                "saturated": spots.saturated.tolist(),
            }
        )
    else:
        _print_table(measured_table(measured, found))


def _calibrate(args: argparse.Namespace) -> None:
    from dd2d_jax.calibrate import calibrate
    from dd2d_jax.output import calibration_table
    from dd2d_jax.patterns import is_image
    from dd2d_jax.readers import read_image

    _check_file("--output", args.output, (".json",))
    if not args.image.exists():
        raise UserError(f"{args.image}: no such file")
    if not is_image(args.image):
        raise UserError(f"{args.image}: no image; dd2d pattern --help names the formats")
    with _naming(args.image):
        image = read_image(args.image)
        made = calibrate(image.pixels, args.material, args.scale, args.centre)
    if args.output:
        made.save(args.output)
    if args.json:
        _print_json(made.as_dict())
    else:
        _print_table(calibration_table(made))


def _index(args: argparse.Namespace) -> None:
    from dd2d_jax.indexing import build
    from dd2d_jax.streams import server_name

    above = next(p for p in (args.directory, *args.directory.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{args.directory}: cannot be written, {above} is no writable folder")
    model = _model(args.checkpoint)
    name = server_name(args.source) if "://" in args.source else args.source
    _say(f"reading {name}")
    with _naming(name):
        report = build(
            args.source, args.directory, model, args.data_dir, args.part, args.append, _say
        )
    facts = {"library": str(args.directory), "model": model.fingerprint}
    if report is not None:
        _print_library(args, report, facts)
    elif args.json:
        _print_json({**facts, "finished": False})


def _enumerate(args: argparse.Namespace) -> None:
    from dd2d_jax.enumerate import write_db

    _check_file("OUT.db", args.out, (".db",))
    if args.out.exists():
        raise UserError(f"{args.out}: exists already; choose another name or remove it")
    _print_library(args, write_db(args.out, args.count), {"out": str(args.out)})


def _merge(args: argparse.Namespace) -> None:
    from dd2d_jax.indexing import merge

    _check_new(args.directory)
    report = merge(args.libraries, args.directory)
    _print_library(args, report, {"library": str(args.directory)})


def _print_library(args: argparse.Namespace, report: dict, facts: dict) -> None:
    """What was kept and skipped of the crystals in a new library or database."""
    if args.json:
        _print_json({**facts, "crystals": report["kept"], "report": report})
        return
    print(f"{next(iter(facts.values()))}: {report['kept']} crystals out of {report['rows']}")
    for reason, skipped in report["skipped"].items():
        print(f"skipped {skipped['count']}: {reason}, for example {skipped['examples'][0]}")
    twins = report["duplicates"]
    if twins["count"]:
        print(f"kept {twins['count']} structural duplicates, for example {twins['examples'][0]}")


def _retrieve(args: argparse.Namespace) -> None:
    options = {
        "k": args.k,
        "elements": _elements(args.elements),
        "rerank": args.rerank,
        "refine": args.refine,
        "propose": args.propose,
        "scale_error": args.scale_error,
    }
    _check_file("--page", args.page, (".html", ".htm"))
    if len(args.pattern) == 1 and _is_folder(args.pattern[0]):
        _retrieve_folder(args, options)
        return
    from dd2d_jax.lattice import PatternError
    from dd2d_jax.patterns import read
    from dd2d_jax.retrieval import retrieve

    _check_patterns(args)
    if args.output:
        _check_new(args.output)
    seen = [read(path, args.scale, args.centre, args.calibration) for path in args.pattern]
    _say("searching")
    model = _model(args.checkpoint)
    patterns, images = zip(*seen, strict=True)
    pattern = patterns[0] if args.tilts is None else patterns
    try:
        found = retrieve(pattern, args.library, model, tilts=args.tilts, **options)
    except PatternError as error:
        raise UserError(f"{', '.join(args.pattern)}: {error}") from error
    image = images[0] if args.tilts is None else None
    if args.output:
        found.write(args.output, image)
    if args.page:
        from dd2d_jax.files import new_file

        with new_file(args.page) as part:
            part.write_text(found.page(image), "utf-8")
    _print_found(found, args.json)


def _print_found(found: Any, as_json: bool) -> None:
    if as_json:
        _print_json(found.to_dict())
    else:
        _print_table(found.table())


def _elements(text: str | None) -> list[str] | None:
    return None if text is None else text.replace(" ", "").split(",")


def _is_folder(name: str) -> bool:
    """Some image formats are folders, too."""
    return Path(name).is_dir() and Path(name).suffix.lower() != ".zspy"


def _check_patterns(args: argparse.Namespace) -> None:
    """Before the work begins: as many patterns as tilts, one without."""
    for name in args.pattern:
        if _is_folder(name):
            raise UserError(f"{name}: a folder; give one folder alone, or files")
    count = len(args.pattern)
    if args.tilts is None and count > 1:
        raise UserError(
            f"{count} patterns need --tilts, degrees of each, such as '0,0 20,0'; patterns of "
            "different crystals are retrieved one by one, or as a folder"
        )
    if args.tilts is not None and len(args.tilts) != count:
        raise UserError(f"--tilts has {len(args.tilts)} pairs of angles for {count} patterns")


def _retrieve_folder(args: argparse.Namespace, options: dict[str, Any]) -> None:
    folder = Path(args.pattern[0])
    if args.output is None:
        raise UserError(f"{folder}: a folder of patterns needs --output DIR for what is found")
    if args.tilts is not None or args.page is not None:
        raise UserError(
            f"{folder}: each pattern of a folder is retrieved on its own and has its own page in "
            "--output; --tilts and --page are for files"
        )
    from dd2d_jax.batch import retrieve_folder
    from dd2d_jax.output import summary_table

    rows = retrieve_folder(
        folder, args.output, args.library, _model(args.checkpoint), args.scale, args.centre,
        args.calibration, options, _say,
    )  # fmt: skip
    if args.json:
        _print_json(rows)
    else:
        _print_table(summary_table(rows))
    if all(row["error"] for row in rows):
        raise UserError(f"{folder}: none of its {len(rows)} patterns could be used")


def _propose(args: argparse.Namespace) -> None:
    from dd2d_jax.lattice import PatternError
    from dd2d_jax.library import Library
    from dd2d_jax.patterns import read_pattern
    from dd2d_jax.propose import PARENTS, propose
    from dd2d_jax.retrieval import retrieve

    if args.output:
        _check_new(args.output)
    elements = _elements(args.elements)
    pattern = read_pattern(args.pattern, scale=args.scale)
    model, library = _model(args.checkpoint), Library.load(args.library)
    _say("searching")
    try:
        found = retrieve(pattern, library, model, max(args.k, PARENTS))
    except PatternError as error:
        raise UserError(f"{args.pattern}: {error}") from error
    _say("proposing")
    found = propose(found, library, model, args.k, elements, args.count)
    if args.output:
        found.write(args.output)
    _print_found(found, args.json)


def _evaluate(args: argparse.Namespace) -> None:
    from dd2d_jax.checkpoint import write_json
    from dd2d_jax.evaluate import evaluate, stored
    from dd2d_jax.library import MANIFEST, Library, read_source
    from dd2d_jax.output import evaluation_table

    out = None if args.json in (None, "-") else Path(args.json)
    _check_file("--json", out)
    if (args.level == "thermal") != (args.snapshots is not None):
        raise UserError(
            "--level thermal and --snapshots S.db need each other; make S.db with dd2d snapshots"
        )
    _check_snapshots(args.snapshots)
    model = _model(args.checkpoint)
    _say(f"reading {args.queries}")
    with _naming(args.queries):
        queries = read_source(args.queries)
    _say(f"reading {args.library}")
    gallery = None
    with _naming(args.library):
        if (Path(args.library) / MANIFEST).is_file():
            library, gallery = stored(model, Library.load(args.library), _say)
        else:
            library = read_source(args.library)
    result = evaluate(
        model, queries, library, args.level, args.seed, _say, args.snapshots, gallery
    )
    if args.json == "-":
        _print_json(result)
        return
    if out is not None:
        write_json(out, result)
    _print_table(evaluation_table(result))


def _check_snapshots(path: str | None) -> None:
    if path is not None and not Path(path).is_file():
        raise UserError(f"{path}: no such file; make it with dd2d snapshots")


def _report(args: argparse.Namespace) -> None:
    _check_new(args.out)
    _check_snapshots(args.snapshots)
    from dd2d_jax.checkpoint import best_step
    from dd2d_jax.library import read_source
    from dd2d_jax.output import evaluation_table
    from dd2d_jax.report import make

    model = _model(args.checkpoint)
    own_folder = Path(args.checkpoint).resolve()
    names = [name for name in dict.fromkeys(args.ablation) if Path(name).resolve() != own_folder]
    others = {name: (_model(name), best_step(name)) for name in names}
    own = Path(args.checkpoint) / "test.db"
    if args.queries is None and not own.is_file():
        raise UserError(f"{own}: no such file; say with --queries Q.db which crystals to find")
    queries = str(own) if args.queries is None else args.queries
    library = queries if args.library is None else args.library
    sets = {}
    for source in dict.fromkeys((queries, library)):
        _say(f"reading {source}")
        with _naming(source):
            sets[source] = read_source(source)
    about = {
        "checkpoint": args.checkpoint,
        "steps": best_step(args.checkpoint),
        "queries": queries,
        "library": library,
    }
    numbers = make(
        model,
        sets[queries],
        sets[library],
        args.out,
        about,
        others,
        args.snapshots,
        args.seed,
        args.crystal,
        _say,
    )
    if args.json:
        _print_json(numbers)
        return
    for result in numbers["accuracy"]["levels"]:
        _print_table(evaluation_table(result))
    print(f"{args.out / 'report.html'}: open it in a browser")


def _snapshots(args: argparse.Namespace) -> None:
    from dd2d_jax import dynamics
    from dd2d_jax.library import read_source

    _check_file("OUT.db", args.out, (".db",))
    settings = dynamics.Settings(
        args.calculator, args.temperature, args.time, args.snapshots, args.seed
    )
    _say(f"reading {args.source}")
    with _naming(args.source):
        crystals = read_source(args.source, args.data_dir)
    if args.limit:
        crystals = crystals.take(range(min(args.limit, len(crystals))))
    with contextlib.redirect_stdout(sys.stderr):  # some calculators greet their users
        made = dynamics.make(crystals, args.out, settings)
    if args.json:
        _print_json({"out": str(args.out), **dataclasses.asdict(settings), **made})
        return
    print(
        f"{args.out}: {made['snapshots']} snapshots of {made['crystals']} out of {len(crystals)} "
        f"crystals ({made['before']} were there already)"
    )
    print(
        f"mean temperature {made['kinetic_temperature']:.0f} K, "
        f"rms displacement {made['displacement']:.3f} A"
    )
    for reason, named in made["skipped"].items():
        uid, message = next(iter(named.items()))
        print(f"skipped {len(named)}: {reason}, for example {uid}: {message}")


def _import_weights(args: argparse.Namespace) -> None:
    _check_new(args.directory)
    from dd2d_jax.paper_model import import_weights

    try:
        made = import_weights(args.file, args.directory, args.heads)
    except ImportError as error:
        raise UserError(str(error)) from error
    if args.json:
        _print_json(made)
        return
    print(
        f"{made['checkpoint']}: {made['parameters']:,} parameters, width {made['width']}, "
        f"{made['layers']} layers, {made['heads']} heads"
    )


def _model(checkpoint: str | None) -> Any:
    from dd2d_jax.trained import load

    return load(checkpoint)


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Put the file's name before errors that do not say it."""
    try:
        yield
    except ValueError as error:
        if str(source) in str(error):
            raise
        raise UserError(f"{source}: {_one_line(error)}") from error


def _check_file(option: str, path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Before the work begins: the file can be written."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; give the name of a file")
    above = path.absolute().parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{option} {path}: cannot be written, {above} is no writable folder")


def _check_new(directory: Path) -> None:
    """Before the work begins: nothing is overwritten, and the folder can be made."""
    if directory.exists() or directory.is_symlink():
        raise UserError(f"{directory}: exists already; choose another name or remove it")
    above = next(p for p in directory.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{directory}: cannot be made, {above} is no writable folder")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Piped into a file there is no width to keep to.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
