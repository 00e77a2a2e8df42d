"""`dd2d pattern` and `dd2d calibrate`: from an image to spots."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    add_scale,
    check_file,
    command,
    finite,
    naming,
    positive,
    print_json,
    print_table,
    say,
)
from dd2d_jax.util.errors import UserError


def add_pattern(commands: Any) -> None:
    """Put `dd2d pattern` among the commands."""
    parser = command(
        commands,
        "pattern",
        _pattern,
        "find the spots of a diffraction image and their lattice",
        "dd2d pattern saed.tif --scale 0.0052 --output spots.csv --plot steps.png",
    )
    parser.add_argument(
        "image", type=Path, help=".png .jpg .tif .npy .dm3 .dm4 .emd .mrc .blo .hspy or .zspy"
    )
    add_scale(parser)
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
        "--width", type=positive, metavar="PX", help="of a spot, standard deviation (found)"
    )
    parser.add_argument(
        "--threshold", type=positive, default=7.0, metavar="T", help="in sigma of the noise (7)"
    )
    parser.add_argument(
        "--max-radius", type=positive, metavar="PX", help="no spots farther from the centre"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="all spots, .csv or .json")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw every step, .png")
    parser.add_argument("--json", action="store_true", help="print lattice and spots as JSON")


def _pattern(args: argparse.Namespace) -> None:
    import numpy as np

    from dd2d_jax.images.measurement import measure
    from dd2d_jax.images.patterns import pattern_dict, write_pattern
    from dd2d_jax.images.readers import read_image
    from dd2d_jax.lattices import lattice
    from dd2d_jax.reports.as_json import lattice_dict
    from dd2d_jax.reports.tables import measured_table
    from dd2d_jax.util import errors

    check_file("--output", args.output, (".csv", ".json"))
    check_file("--plot", args.plot, (".png", ".pdf", ".svg"))
    _check_image(args.image)
    if args.mask is not None:
        _check_image(args.mask)
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
        say(note)
    try:
        found, why = lattice.find(measured.pattern), ""
    except errors.PatternError as error:
        found, why = None, f"{args.image}: {error}"
    # Whether or not there is a lattice: a person may want to see why.
    if args.output:
        write_pattern(measured.pattern, args.output)
    if args.plot:
        from dd2d_jax.reports.diagnostics import plot_steps
        from dd2d_jax.reports.figures import save

        save(plot_steps(measured, found, why), args.plot)
    if found is None:
        raise UserError(why)
    if args.json:
        spots = measured.spots
        print_json(
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
        print_table(measured_table(measured, found))


def add_calibrate(commands: Any) -> None:
    """Put `dd2d calibrate` among the commands."""
    parser = command(
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
        "--scale", type=positive, metavar="S", help="about, to 15 %%, 1/angstrom per pixel"
    )
    parser.add_argument(
        "--centre", type=finite, nargs=2, metavar=("X", "Y"), help="about, column and row, pixels"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the calibration, .json")
    parser.add_argument("--json", action="store_true", help="print the calibration as JSON")


def _calibrate(args: argparse.Namespace) -> None:
    from dd2d_jax.images.calibration import calibrate
    from dd2d_jax.images.readers import read_image
    from dd2d_jax.reports.tables import calibration_table

    check_file("--output", args.output, (".json",))
    _check_image(args.image)
    with naming(args.image):
        image = read_image(args.image)
        made = calibrate(image.pixels, args.material, args.scale, args.centre)
    if args.output:
        made.save(args.output)
    if args.json:
        print_json(made.as_dict())
    else:
        print_table(calibration_table(made))


def _check_image(path: Path) -> None:
    from dd2d_jax.images.patterns import is_image

    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not is_image(path):
        raise UserError(f"{path}: no image; dd2d pattern --help names the formats")
