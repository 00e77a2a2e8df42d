"""`dd2d retrieve` and `dd2d propose`: from a pattern to its crystal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    add_checkpoint,
    add_image,
    at_least_one,
    at_least_zero,
    check_file,
    check_new,
    command,
    image_options,
    load_model,
    not_negative,
    print_json,
    print_table,
    read_patterns,
    say,
    tilt_pairs,
)
from dd2d_jax.util.errors import UserError
from dd2d_jax.util.progress import stage, watched


def add_retrieve(commands: Any) -> None:
    """Put `dd2d retrieve` among the commands."""
    parser = command(
        commands,
        "retrieve",
        _retrieve,
        "find the crystals of a library that best explain a pattern",
        "dd2d retrieve saed.tif --scale 0.0052 --elements Mo,S --refine --output found\n"
        "  dd2d retrieve a.csv b.csv --tilts '0,0 20,0' --refine --page both.html\n"
        "  dd2d retrieve my_patterns --calibration camera.json --output my_results",
    )
    parser.add_argument(
        "pattern",
        nargs="+",
        help="spot list (.csv, .txt, .json, .npy; 1/angstrom) or image (.png, .tif); with --tilts, "
        "several patterns of one crystal; with --output, a folder of patterns of different "
        "crystals (the same command resumes an interrupted run)",
    )
    add_image(parser)
    parser.add_argument(
        "--scale-error",
        type=not_negative,
        default=0.02,
        metavar="E",
        help="relative error of the scale; 1 if the scale is known to a factor 2, or not at all "
        "(default: 0.02)",
    )
    parser.add_argument(
        "--tilts",
        type=tilt_pairs,
        metavar="'X,Y ...'",
        help="tilt of each pattern of one crystal, as a pair of angles about x and y in degrees",
    )
    _add_search(parser)
    parser.add_argument(
        "--rerank",
        type=at_least_zero,
        default=100,
        metavar="N",
        help="number of crystals weighed by simulation; 0 keeps the network's order, without "
        "probabilities (default: 100)",
    )
    parser.add_argument(
        "--refine", action="store_true", help="refine strain, atoms and B of the first K candidates"
    )
    parser.add_argument(
        "--multislice", action="store_true",
        help="as --refine, and fit the first candidate with multiple scattering",
    )  # fmt: skip
    parser.add_argument(
        "--propose", action="store_true", help="also propose crystals that are not in the library"
    )


def _retrieve(args: argparse.Namespace) -> None:
    options = {
        "k": args.k,
        **_composition(args),
        "prior": not args.no_prior,
        "rerank": args.rerank,
        "refine": "multislice" if args.multislice else args.refine,
        "propose": args.propose,
        "scale_error": args.scale_error,
    }
    check_file("--page", args.page, (".html", ".htm"))
    if len(args.pattern) == 1 and _is_folder(args.pattern[0]):
        _retrieve_folder(args, options)
        return
    from dd2d_jax.images.patterns import UNKNOWN_SCALE
    from dd2d_jax.matching.retrieval import retrieve
    from dd2d_jax.util.errors import PatternError

    _check_patterns(args)
    if args.output:
        check_new(args.output)
    reading = image_options(args)
    if args.scale_error >= UNKNOWN_SCALE:
        reading["likely_scale"] = True
    with watched(say):
        patterns, images, notes = zip(*read_patterns(args.pattern, reading), strict=True)
        stage("loading the network and the library")
        model = load_model(args.checkpoint)
        pattern = patterns[0] if args.tilts is None else patterns
        try:
            found = retrieve(pattern, args.library, model, tilts=args.tilts, **options)
        except PatternError as error:
            raise UserError(f"{', '.join(args.pattern)}: {error}") from error
        image = images[0] if args.tilts is None else None
        about = _about(args, ", ".join(Path(name).name for name in args.pattern))
        about["note"] = "; ".join(note for some in notes for note in some)
        _write(args, found, image, about)
    _print_found(found, args)


def _write(args: argparse.Namespace, found: Any, image: Any, about: dict[str, str]) -> None:
    """The folder and the page that were asked for."""
    from dd2d_jax.util.files import new_file

    if args.output:
        stage(f"writing {args.output}")
        found.write(args.output, image, about)
    if args.page:
        stage(f"writing {args.page}")
        with new_file(args.page) as part:
            part.write_text(found.page(image, about), "utf-8")


def _retrieve_folder(args: argparse.Namespace, options: dict[str, Any]) -> None:
    folder = Path(args.pattern[0])
    if args.output is None:
        raise UserError(f"{folder}: a folder of patterns needs --output DIR for the results")
    if args.tilts is not None or args.page is not None:
        raise UserError(
            f"{folder}: each pattern of a folder is retrieved on its own and has its own page in "
            "--output; --tilts and --page are for files"
        )
    from dd2d_jax.commands.folder import retrieve_folder
    from dd2d_jax.reports.tables import summary_table

    rows = retrieve_folder(
        folder, args.output, args.library, load_model(args.checkpoint), image_options(args),
        options, say, _about(args),
    )  # fmt: skip
    if args.json:
        print_json(rows)
    else:
        print_table(summary_table(rows))
    if all(row["error"] for row in rows):
        raise UserError(f"{folder}: none of its {len(rows)} patterns could be used")


def _about(args: argparse.Namespace, file: str | None = None) -> dict[str, str]:
    """For the head of a page: where what is on it comes from."""
    return {
        **({} if file is None else {"file": file}),
        "command": args.typed,
        "library": args.library or "the one in the package",
    }


def _check_patterns(args: argparse.Namespace) -> None:
    """Before the work begins: as many patterns as tilts, one without."""
    for name in args.pattern:
        if _is_folder(name):
            raise UserError(f"{name}: is a folder; give a single folder, or files only")
    count = len(args.pattern)
    if args.tilts is None and count > 1:
        raise UserError(
            f"{count} patterns need --tilts, two angles in degrees for each, such as '0,0 20,0'; "
            "patterns of different crystals are retrieved one at a time, or as a folder"
        )
    if args.tilts is not None and len(args.tilts) != count:
        raise UserError(f"--tilts has {len(args.tilts)} pairs of angles for {count} patterns")


def _is_folder(name: str) -> bool:
    """Some image formats are folders, too."""
    return Path(name).is_dir() and Path(name).suffix.lower() != ".zspy"


def add_propose(commands: Any) -> None:
    """Put `dd2d propose` among the commands."""
    parser = command(
        commands,
        "propose",
        _propose,
        "find crystals that explain a pattern, including some that are not in the library",
        "dd2d propose pattern.csv --library my_library --elements Mo,S --output proposed",
    )
    parser.add_argument(
        "pattern", help="spot list (.csv, .txt, .json, .npy; 1/angstrom) or image (.png, .tif)"
    )
    add_image(parser)
    _add_search(parser)
    parser.add_argument(
        "--count",
        type=at_least_one,
        default=2000,
        metavar="N",
        help="proposals to simulate (default: 2000)",
    )


def _propose(args: argparse.Namespace) -> None:
    from dd2d_jax.libraries.elements import allowed_rows
    from dd2d_jax.libraries.library import Library
    from dd2d_jax.matching.propose import PARENTS, propose
    from dd2d_jax.matching.retrieval import retrieve
    from dd2d_jax.util.errors import PatternError

    if args.output:
        check_new(args.output)
    limits = _composition(args)
    check_file("--page", args.page, (".html", ".htm"))
    with watched(say):
        ((pattern, image, notes),) = read_patterns([args.pattern], image_options(args))
        model, library = load_model(args.checkpoint), Library.load(args.library)
        stage("loading the network and the library")
        try:
            parents = retrieve(pattern, library, model, max(args.k, PARENTS))
            found = parents
            held = allowed_rows(library, **limits, needed=False).any()
            if held and (any(limits.values()) or args.no_prior):
                found = retrieve(pattern, library, model, args.k, prior=not args.no_prior, **limits)
        except PatternError as error:
            raise UserError(f"{args.pattern}: {error}") from error
        stage("proposing")
        found = propose(
            found, library, model, args.k, limits["elements"], args.count, parents=parents,
            contains=limits["contains"], excludes=limits["excludes"],
        )  # fmt: skip
        about = {**_about(args, Path(args.pattern).name), "note": "; ".join(notes)}
        _write(args, found, image, about)
    _print_found(found, args)


def _add_search(parser: argparse.ArgumentParser) -> None:
    """What is searched, and where what is found goes."""
    parser.add_argument(
        "--library", metavar="DIR", help="library from `dd2d index` (default: the package's own)"
    )
    add_checkpoint(parser)
    parser.add_argument(
        "-k", type=at_least_one, default=10, metavar="K", help="number of candidates (default: 10)"
    )
    parser.add_argument(
        "--elements",
        metavar="Mo,S",
        help="only crystals made of these elements; a formula works too, and nonmetals,Mo "
        "allows no metal but Mo",
    )
    parser.add_argument(
        "--contains", metavar="Mo", help="only crystals that have all of these elements"
    )
    parser.add_argument(
        "--excludes", metavar="O", help="only crystals that have none of these elements"
    )
    parser.add_argument(
        "--weights",
        type=_weights,
        metavar="O=0.1,...",
        help="prior weight of crystals that contain an element, such as O=0.1 for 'maybe O'; these "
        "elements are allowed in addition to --elements",
    )
    parser.add_argument(
        "--no-prior",
        action="store_true",
        help="give all crystals the same prior probability, stable or not, known or not",
    )
    parser.add_argument(
        "--all", action="store_true", help="also show candidates of less than 0.1 %%"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="new folder for the page, CIF, POSCAR, JSON, CSV and PNG",
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write a page with the result, .html"
    )
    parser.add_argument("--json", action="store_true", help="print the candidates as JSON")


def _composition(args: argparse.Namespace) -> dict[str, Any]:
    """What was said of the elements, as `retrieve` takes it."""
    names = ("elements", "contains", "excludes", "weights")
    return {name: getattr(args, name) for name in names}


def _weights(text: str) -> dict[str, float]:
    """A converter for argparse: a positive number for each element."""
    pairs = [pair.partition("=") for pair in text.replace(" ", "").split(",") if pair]
    try:
        weights = {name: float(value) for name, _, value in pairs}
    except ValueError:
        weights = {}
    if not weights or not all(name and 0 < x < float("inf") for name, x in weights.items()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of weights, such as O=0.1")
    return weights


def _print_found(found: Any, args: argparse.Namespace) -> None:
    if args.json:
        print_json(found.to_dict())
    else:
        print_table(found.table(args.all))
