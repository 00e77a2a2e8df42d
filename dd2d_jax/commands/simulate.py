"""`dd2d simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    at_least_one,
    check_file,
    command,
    energy,
    finite,
    naming,
    not_negative,
    positive,
    print_json,
    print_table,
    say,
)
from dd2d_jax.util.errors import UserError

# keV.
_ENERGY = 80.0
# Rows and columns of a simulated image.
_PIXELS = 512
# Radius of a beam stop and half width of the halo at half its height, 1/angstrom.
_STOP, _HALO_WIDTH = 0.08, 0.1
# Spots times atoms: some gigabytes.
_MOST_WORK = 2e8
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
        "--energy",
        type=energy,
        metavar="KEV",
        help="energy of the electrons in keV, stored in the files (default: 80)",
    )
    beam.add_argument(
        "--xrays", type=positive, metavar="WAVELENGTH", help="X-rays, wavelength in angstrom"
    )
    parser.add_argument(
        "--q-max",
        type=positive,
        default=1.5,
        help="largest q = 1/d in 1/angstrom, without 2 pi (default: 1.5)",
    )
    parser.add_argument(
        "--b-iso",
        type=not_negative,
        default=0.5,
        metavar="B",
        help="Debye-Waller factor B in angstrom^2 (default: 0.5)",
    )
    parser.add_argument(
        "--tilt",
        type=finite,
        nargs=2,
        default=(0.0, 0.0),
        metavar=("X", "Y"),
        help="tilt of the layer, as in the file, about x and then y in degrees (default: 0 0)",
    )
    parser.add_argument(
        "--table", choices=_TABLES, default="lobato", help="form factors (default: lobato)"
    )
    parser.add_argument(
        "--method",
        choices=("kinematic", "multislice"),
        default="kinematic",
        help="multislice includes multiple scattering (default: kinematic)",
    )
    parser.add_argument(
        "--bonds",
        action="store_true",
        help="include the electrons in bonds between B, C and N, which weaken the first ring of "
        "graphene and h-BN by 19 %%; not with multislice",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write all spots, .csv or .json"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw layer and pattern, .png")
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="write a detector image, .tif or .npy"
    )
    parser.add_argument(
        "--rotation",
        type=finite,
        default=0.0,
        metavar="DEG",
        help="rotation of the pattern in degrees, from +q_x towards +q_y (default: 0)",
    )
    _add_detector(parser)
    parser.add_argument("--json", action="store_true", help="print all spots as JSON")


def _add_detector(parser: argparse.ArgumentParser) -> None:
    """The flags that say what a detector sees."""
    detector = parser.add_argument_group("with --image")
    detector.add_argument(
        "--dose", type=positive, metavar="N", help="electrons in the image, with counting noise"
    )
    detector.add_argument(
        "--size", type=at_least_one, metavar="PX", help=f"rows and columns (default: {_PIXELS})"
    )
    detector.add_argument(
        "--halo",
        type=not_negative,
        metavar="SHARE",
        help="ratio of inelastically scattered electrons around the beam to those in spots "
        "(default: 0)",
    )
    detector.add_argument(
        "--beam",
        type=not_negative,
        metavar="SHARE",
        help="ratio of electrons in the central beam to those in spots (default: 0)",
    )
    detector.add_argument(
        "--beam-stop",
        type=positive,
        nargs="?",
        const=_STOP,
        metavar="RADIUS",
        help=f"beam stop with a bar from below; radius in 1/angstrom (without a value: {_STOP})",
    )


def _simulate(args: argparse.Namespace) -> None:
    import diffraction as dx
    from dd2d_jax.crystals.structure_files import read_structure
    from dd2d_jax.images.patterns import pattern_dict, write_pattern
    from dd2d_jax.reports.tables import pattern_table

    _check_arguments(args)
    with naming(args.structure):
        atoms = read_structure(args.structure)
        disordered = _check_crystal(atoms)
        crystal = dx.Crystal.from_ase(atoms)
        _check_work(crystal, args)
        beam = (
            dx.Xrays(args.xrays) if args.xrays else dx.Electrons(args.energy or _ENERGY, args.table)
        )
        conditions = (crystal, beam, args.q_max, args.b_iso, tuple(args.tilt))
        pattern = dx.simulate(*conditions, method=args.method, bonds=args.bonds)
    if not bool(pattern.mask.any()):
        raise UserError(f"{args.structure}: no spot within q_max = {args.q_max:g} 1/angstrom")
    if args.method == "kinematic" and not args.xrays and not disordered:
        from diffraction.multislice import KINEMATIC_LIMIT

        error = float(dx.kinematic_error(*conditions))
        if error > KINEMATIC_LIMIT:
            say(f"multiple scattering changes this pattern by {error:.0%}; use --method multislice")
    pattern = _as_told(pattern, args)
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


def _check_arguments(args: argparse.Namespace) -> None:
    check_file("--output", args.output, (".csv", ".json"))
    check_file("--plot", args.plot, (".png", ".pdf", ".svg"))
    check_file("--image", args.image, (".tif", ".tiff", ".npy"))
    for name in ("dose", "size", "halo", "beam", "beam_stop"):
        if getattr(args, name) is not None and not args.image:
            raise UserError(f"--{name.replace('_', '-')} needs --image FILE")
    if args.bonds and args.method == "multislice":
        raise UserError("--bonds is for --method kinematic")
    if args.xrays and (args.method == "multislice" or args.table != "lobato"):
        raise UserError("--method multislice and --table are for electrons, not for --xrays")


def _check_crystal(atoms: Any) -> bool:
    """Raise StructureError for what is no layer; whether it is disordered, or very large."""
    from dd2d_jax.crystals import structures

    if structures.check_disordered(atoms):
        say("disordered or very large: it is not checked whether its atoms form a layer")
        return True
    structures.layer(atoms)  # tilt and hk are those of the file
    return False


def _check_work(crystal: Any, args: argparse.Namespace) -> None:
    """Raise UserError where a crystal is so large that its pattern would take all memory."""
    import numpy as np

    area = abs(float(np.linalg.det(np.asarray(crystal.lattice, float))))
    work = np.pi * args.q_max**2 * area * len(crystal.numbers)
    if work > _MOST_WORK:
        raise UserError(
            f"{args.structure}: {len(crystal.numbers)} atoms in {area:.4g} A^2 are too many for "
            f"--q-max {args.q_max:g}; {args.q_max * np.sqrt(_MOST_WORK / work):.2g} is possible"
        )


def _as_told(pattern: Any, args: argparse.Namespace) -> Any:
    """The pattern turned about the beam, with its energy where that was typed."""
    import dataclasses

    import numpy as np

    turn = np.radians(args.rotation)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], np.float32)
    q = pattern.q @ matrix if args.rotation else pattern.q
    return dataclasses.replace(pattern, q=q, energy=args.energy)


def _write_image(pattern: Any, args: argparse.Namespace) -> None:
    import jax
    import numpy as np

    import diffraction as dx
    from dd2d_jax.images.readers import write_image

    size = args.size or _PIXELS
    shape, scale = (size, size), float(f"{2.2 * args.q_max / size:.3g}")
    flux = float(pattern.intensity.sum())
    rows, columns = np.indices(shape) - (size - 1) / 2
    lorentzian = 1 / (1 + (rows**2 + columns**2) * (scale / _HALO_WIDTH) ** 2)
    height = (args.halo or 0.0) * flux / float(lorentzian.sum())
    image = dx.render(
        pattern, shape, scale, fwhm=max(4 * size / _PIXELS, 2.5) * scale,
        beam=(args.beam or 0.0) * flux, halo=(height, _HALO_WIDTH),
    )  # fmt: skip
    if args.dose:
        image = dx.counts(jax.random.key(0), image, args.dose)
    image = np.asarray(image, np.float32)
    if args.beam_stop:
        image = image * np.asarray(dx.beam_stop(shape, scale, None, args.beam_stop, -90.0, 0.05))
    write_image(image, args.image, scale)
    say(f"{args.image}: {size} x {size} pixels of {scale:g} 1/angstrom")
