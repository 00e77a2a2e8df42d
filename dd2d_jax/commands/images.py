"""`dd2d pattern` and `dd2d calibrate`: from an image to spots."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd2d_jax.commands.common import (
    add_image,
    check_file,
    command,
    finite,
    image_options,
    naming,
    positive,
    print_json,
    print_table,
    read_patterns,
)
from dd2d_jax.util.errors import UserError

if TYPE_CHECKING:
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.lattices.indexed import Indexed


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
        "image",
        type=Path,
        help=".png .jpg .bmp .tif .npy .dm3 .dm4 .emd .mrc .blo .hspy .zspy .ser .tvips or .mib",
    )
    add_image(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the spots, .csv or .json"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw every step, .png")
    parser.add_argument("--json", action="store_true", help="print lattice and spots as JSON")


def _pattern(args: argparse.Namespace) -> None:
    from dd2d_jax.images.patterns import write_pattern
    from dd2d_jax.lattices import lattice
    from dd2d_jax.reports.tables import measured_table
    from dd2d_jax.util.errors import PatternError

    check_file("--output", args.output, (".csv", ".json"))
    check_file("--plot", args.plot, (".png", ".pdf", ".svg"))
    _check_image(args.image)
    reading = image_options(args)
    try:
        ((pattern, measured, _),) = read_patterns([args.image], reading)
        # Whether or not there is a lattice: a person may want to correct them.
        if args.output:
            write_pattern(pattern, args.output)
        try:
            found = lattice.find_all(pattern)
        except PatternError as error:
            refusal = PatternError(f"{args.image}: {error}")
            refusal.step, refusal.seen = "lattice", measured
            raise refusal from error
    except PatternError as error:
        if args.plot and error.seen is not None:
            from dd2d_jax.reports.figures import save
            from dd2d_jax.reports.refused import plot_refused

            save(plot_refused(error), args.plot)
        raise
    if args.plot:
        from dd2d_jax.reports.diagnostics import plot_steps
        from dd2d_jax.reports.figures import save

        save(plot_steps(measured, found[0], others=found[1:]), args.plot)
    if args.json:
        print_json(_as_json(measured, found))
    else:
        print_table(measured_table(measured, found))


def _as_json(measured: Measured, found: list[Indexed]) -> dict[str, Any]:
    """An image's lattices, spots and calibration."""
    import numpy as np

    from dd2d_jax.images.patterns import pattern_dict
    from dd2d_jax.lattices.lattice import twist
    from dd2d_jax.lattices.notes import notes_of_all
    from dd2d_jax.reports.as_json import lattice_dict
    from dd2d_jax.util.text import finite

    spots, mapping = measured.spots, measured.mapping
    turned = [twist(found[0], other)[0] for other in found[1:]]
    return {
        "lattice": lattice_dict(found[0]),
        "others": [
            {**lattice_dict(other), "twist": finite(angle)}
            for other, angle in zip(found[1:], turned, strict=True)
        ],
        "centre": [float(x) for x in spots.centre],
        "scale": np.broadcast_to(mapping.scale, 2).tolist(),
        "ellipticity": mapping.ellipticity,
        "axis": mapping.axis,
        "radial": mapping.radial,
        "energy": measured.image.energy,
        "width": spots.width,
        "rejected": len(spots.rejected),
        **pattern_dict(measured.pattern),
        "pixels": spots.position.tolist(),
        "saturated": spots.saturated.tolist(),
        "notes": [*measured.image.notes, *notes_of_all(found)],
    }


def add_calibrate(commands: Any) -> None:
    """Put `dd2d calibrate` among the commands."""
    parser = command(
        commands,
        "calibrate",
        _calibrate,
        "calibrate the scale and distortion at a camera length with a known material",
        "dd2d calibrate gold.tif --material Au --output camera.json",
    )
    parser.add_argument(
        "image", type=Path, help="image of rings or spots; formats as in dd2d pattern"
    )
    parser.add_argument(
        "--material",
        default="Au",
        metavar="NAME",
        help="for rings: Ag, Al, Au, Cu, Fe, Ni, Pd, Pt, Si, W, graphite or a CIF file; for spots "
        "of a single crystal: graphene, hBN or graphite (default: Au)",
    )
    parser.add_argument(
        "--scale",
        type=positive,
        metavar="S",
        help="approximate scale in 1/angstrom per pixel, within 15 %%",
    )
    parser.add_argument(
        "--centre",
        type=finite,
        nargs=2,
        metavar=("X", "Y"),
        help="approximate column and row of the centre in pixels",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the calibration, .json")
    parser.add_argument("--json", action="store_true", help="print the calibration as JSON")


def _calibrate(args: argparse.Namespace) -> None:
    from dd2d_jax.images.readers import read_image
    from dd2d_jax.images.standards import calibrate
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
        raise UserError(f"{path}: not an image; dd2d pattern --help lists the formats")
