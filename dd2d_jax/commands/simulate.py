"""`dd2d simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    check_file,
    command,
    finite,
    naming,
    not_negative,
    positive,
    print_json,
    print_table,
    say,
)
from dd2d_jax.util.errors import UserError

# Rows and columns of a simulated image.
_PIXELS = 512
_TABLES = ("lobato", "kirkland", "peng")


def add_simulate(commands: Any) -> None:
    """Put `dd2d simulate` among the commands."""
    parser = command(
        commands,
        "simulate",
        _simulate,
        "simulate the diffraction pattern of a 2D crystal",
        "dd2d simulate MoS2.cif --energy 80 --q-max 1.5 --output MoS2.csv --plot MoS2.png",
    )
    parser.add_argument("structure", help="CIF, POSCAR, extended XYZ or XSF file of one layer")
    beam = parser.add_mutually_exclusive_group()
    beam.add_argument(
        "--energy", type=positive, default=80.0, metavar="KEV", help="electrons, keV (80)"
    )
    beam.add_argument("--xrays", type=positive, metavar="WAVELENGTH", help="X-rays, angstrom")
    parser.add_argument(
        "--q-max", type=positive, default=1.5, help="1/angstrom, q = 1/d without 2 pi (1.5)"
    )
    parser.add_argument(
        "--b-iso", type=not_negative, default=0.5, metavar="B", help="angstrom^2 (0.5)"
    )
    parser.add_argument(
        "--tilt",
        type=finite,
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
        "--dose", type=positive, metavar="N", help="with --image: N counts, with their noise"
    )
    parser.add_argument("--json", action="store_true", help="print all spots as JSON")


def _simulate(args: argparse.Namespace) -> None:
    import diffraction as dx
    from dd2d_jax.crystals import structures
    from dd2d_jax.images.patterns import pattern_dict, write_pattern
    from dd2d_jax.reports.tables import pattern_table

    check_file("--output", args.output, (".csv", ".json"))
    check_file("--plot", args.plot, (".png", ".pdf", ".svg"))
    check_file("--image", args.image, (".tif", ".tiff", ".npy"))
    if args.dose and not args.image:
        raise UserError("--dose is of an image: give --image FILE, too")
    if args.xrays and (args.method == "multislice" or args.table != "lobato"):
        raise UserError("--method multislice and --table are for electrons, not for --xrays")
    with naming(args.structure):
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
            say(f"multiple scattering changes this pattern by {error:.0%}: --method multislice")
    if args.output:
        write_pattern(pattern, args.output)
    if args.plot:
        from dd2d_jax.reports.figures import plot_pattern_and_structure, save

        save(plot_pattern_and_structure(crystal, pattern), args.plot)
    if args.image:
        _write_image(pattern, args)
    if args.json:
        print_json(pattern_dict(pattern))
    else:
        print_table(pattern_table(pattern))


def _write_image(pattern: Any, args: argparse.Namespace) -> None:
    import jax
    import numpy as np

    import diffraction as dx
    from dd2d_jax.images.readers import write_image

    scale = float(f"{2.2 * args.q_max / _PIXELS:.3g}")
    image = dx.render(pattern, (_PIXELS, _PIXELS), scale, fwhm=4 * scale)
    if args.dose:
        image = dx.counts(jax.random.key(0), image, args.dose)
    write_image(np.asarray(image, np.float32), args.image, scale)
    say(f"{args.image}: {_PIXELS} x {_PIXELS} pixels of {scale:g} 1/angstrom")
