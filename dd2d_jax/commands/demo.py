"""`dd2d demo`: the whole path on an image that comes with the package."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    check_new,
    command,
    load_model,
    open_in_browser,
    print_json,
    print_table,
    say,
)
from dd2d_jax.util.progress import stage, watched

_FOLDER = "dd2d-demo"


def add_demo(commands: Any) -> None:
    """Put `dd2d demo` among the commands."""
    from dd2d_jax.images.examples import EXAMPLES

    parser = command(
        commands,
        "demo",
        _demo,
        "identify the crystal in an example image; needs no data",
        "dd2d demo",
    )
    parser.add_argument(
        "example",
        nargs="?",
        choices=[one.name for one in EXAMPLES],
        default=EXAMPLES[0].name,
        help="; ".join(f"{one.name}: {one.what}" for one in EXAMPLES)
        + f" (default: {EXAMPLES[0].name})",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"new folder for image and results (default: {_FOLDER})",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="write the page without opening it"
    )
    parser.add_argument("--json", action="store_true", help="print the candidates as JSON")


def _demo(args: argparse.Namespace) -> None:
    from dd2d_jax.images.examples import EXAMPLES
    from dd2d_jax.images.patterns import read
    from dd2d_jax.lattices.lattice import find_all
    from dd2d_jax.matching.retrieval import retrieve
    from dd2d_jax.reports.diagnostics import plot_steps
    from dd2d_jax.reports.figures import save
    from dd2d_jax.util.files import first_free, new_folder

    example = next(one for one in EXAMPLES if one.name == args.example)
    output = args.output or first_free(_FOLDER)
    check_new(output)
    image = output / example.path.name
    retrieval = f"dd2d retrieve {image} --energy {example.energy:g}"
    with watched(say), new_folder(output) as part:
        shutil.copyfile(example.path, part / image.name)
        pattern, measured, _ = read(part / image.name, energy=example.energy)
        stage("finding the lattice")
        lattices = find_all(pattern)
        save(plot_steps(measured, lattices[0], others=lattices[1:]), part / "steps.png")
        stage("loading the network and the library; the first time, compiling takes a while")
        found = retrieve(pattern, model=load_model(None))
        stage("writing the page")
        about = {"file": image.name, "command": retrieval, "library": "the one in the package"}
        found.write(part / "found", measured, about)
    page = output / "found" / "page.html"
    if args.json:
        print_json(found.to_dict())
    else:
        _tell(example, output, image, measured, lattices, found, page, retrieval)
    if not args.no_browser and not args.json:
        open_in_browser(page.resolve().as_uri())


def _tell(example: Any, output: Path, image: Path, measured: Any, lattices: Any, found: Any,
          page: Path, retrieval: str) -> None:  # fmt: skip
    """The path in words: what was done, what came out, what to do next."""
    from dd2d_jax.libraries.elements import element_symbols
    from dd2d_jax.reports.conclusion import conclusion
    from dd2d_jax.reports.tables import measured_table

    print(
        f"1. The image: {image}, {example.what} at {example.energy:g} keV. It is simulated, with "
        "camera\n   noise, a beam stop and an off-centre beam."
    )
    print(f"\n2. Its spots and their lattice; {output / 'steps.png'} shows every step:\n")
    print_table(measured_table(measured, lattices))
    print(f"\n3. The crystals that explain it best, of {found.searched:,} in the library:\n")
    print_table(found.table())
    for one in (found, *found.others):
        print(f"\n{conclusion(one)}")
    elements = ",".join(element_symbols(",".join(example.answer)))
    energy = f"--energy {example.energy:g}"
    print(
        f"""
4. The result page, to read and to pass on: {page}

What next

   Give the elements that may be in the sample, and refine the candidates:
      {retrieval} --elements {elements} --refine --output {output}/refined

   Work interactively in a window (needs pip install '.[app]'):
      dd2d app {image} {energy}

   Use your own image; S is its scale in 1/angstrom per pixel, if the file does not store it:
      dd2d pattern MINE.tif --scale S --plot steps.png
      dd2d retrieve MINE.tif --scale S --output mine"""
    )
