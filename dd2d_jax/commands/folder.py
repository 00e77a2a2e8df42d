"""A folder of patterns, each retrieved on its own; started again, it goes on where it was ended.

What is found for a pattern is moved into place as a whole folder, so that a run may be ended at
any moment; the summary is made of these folders, whether this run filled them or one before.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.images.patterns import SUFFIXES, read
from dd2d_jax.libraries.elements import allowed_rows
from dd2d_jax.libraries.library import Library
from dd2d_jax.libraries.shards import digest
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.networks.trained import Model
from dd2d_jax.reports import folder_page
from dd2d_jax.reports.found_files import write_found
from dd2d_jax.util.files import new_file, new_folder
from dd2d_jax.util.progress import progress
from dd2d_jax.util.text import inert, printable

# A row of the summary; without a result the fields between the first and the last are None.
FIELDS = (
    "file", "folder", "lattices", "a", "b", "gamma", "formula", "uid", "probability", "none", "r1",
    "error",
)  # fmt: skip
_OPTIONS, _SUMMARY = "options.json", ("summary.csv", "summary.json", "page.html")


def retrieve_folder(
    folder: str | Path,
    output: str | Path,
    library: str | Path | None,
    model: Model,
    reading: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
    about: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Retrieve every pattern of a folder into `output`/NAME, and write a summary there.

    A pattern that cannot be used has its error in the summary and is tried again the next time.
    Folders in the folder are not looked into.

    Args:
        folder: with the files that `read_pattern` takes.
        output: a new folder, or that of the same call ended before.
        library: its folder; None takes the one in the package.
        model: that built the library.
        reading: arguments of `patterns.read`, such as scale, calibration and mask.
        options: k, elements, rerank, refine, propose and scale_error of `retrieve`.
        say: takes lines for the user.
        about: "command" and "library" for the head of every page.

    Returns:
        A row (`FIELDS`) for each pattern, by the files' names: cell in angstrom and degrees, the
        first candidate and its probability, R1, or the error.

    Raises:
        ValueError: no pattern in the folder, an unknown element, or `output` is of other options.
        FileExistsError: something else is at `output`.
        LibraryError: the library is damaged or was built by another model.
        OSError: `output` cannot be written.
    """
    folder, output = Path(folder), Path(output)
    options, reading = dict(options or {}), dict(reading or {})
    if options.get("scale_error", 0) >= 0.5:
        reading["likely_scale"] = True
    files = _files(folder, say)
    opened = Library.load(library)
    opened.check(model)
    if not options.get("propose"):  # proposals may be of elements that the library does not have
        allowed_rows(opened, options.get("elements"))
    recorded = {
        "model": model.fingerprint,
        "library": "the package's own" if library is None else str(Path(library).resolve()),
        "crystals": len(opened),
        "reading": {name: _recorded(value) for name, value in reading.items()},
        **options,
    }
    _begin(output, recorded)
    names, rows = _names(files), []
    for file in progress(files, len(files), "patterns", per="min"):
        place = output / names[file]
        try:
            if not (place / "found.json").exists():
                pattern, image, notes = read(file, **reading)
                for note in notes:
                    say(note)
                source = {"file": file.name, "sha256": digest(file)} if file.is_file() else {
                    "file": file.name
                }  # fmt: skip
                found = retrieve(pattern, opened, model, **options)
                said = {"note": "; ".join(notes), **(about or {})}
                write_found(found, place, image, source, said)
            rows.append(_row(file, place))
        except Exception as error:  # one bad file must not stop the others
            rows.append({**dict.fromkeys(FIELDS), "file": file.name, "lattices": 0,
                         "error": _line(error, file)})  # fmt: skip
    _write_summary(output, rows, {"folder": folder.name, **(about or {})})
    return rows


def _recorded(value: Any) -> Any:
    """A way of reading as JSON: of files and arrays what tells them apart."""
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Path):
        return digest(value)
    return list(value) if isinstance(value, tuple) else value


def _files(folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Patterns in a folder, by name; what is passed over is said."""
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in inside if p.suffix.lower() in SUFFIXES and (p.is_file() or _store(p))]
    others = [p.name for p in inside if p not in files]
    if others:
        some = ", ".join(printable(name) for name in others[:3])
        say(f"skipped {len(others)} that are not patterns: {some}")
    if not files:
        raise ValueError(f"{folder}: holds no pattern; files may end in {' '.join(SUFFIXES)}")
    return files


def _store(path: Path) -> bool:
    return path.suffix.lower() == ".zspy"


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """Folders for the files' results: the name, with its suffix where several would be alike."""
    count = Counter(file.stem.casefold() for file in files)
    count.update((_OPTIONS, *_SUMMARY))
    return {
        file: file.stem if count[file.stem.casefold()] == 1 else f"{file.stem}_{file.suffix[1:]}"
        for file in files
    }


def _begin(output: Path, recorded: dict[str, Any]) -> None:
    """A new folder with the options in it, or one that was begun with the same."""
    path = output / _OPTIONS
    if not path.is_file():
        with new_folder(output) as part:
            (part / _OPTIONS).write_text(json.dumps(recorded, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text())
        different = [name for name in recorded if before[name] != recorded[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged; choose another folder for the results") from error
    if different:
        name = different[0]
        raise ValueError(
            f"{output}: begun with {name} {before[name]}, not {recorded[name]}; choose another "
            "folder"
        )


def _row(file: Path, place: Path) -> dict[str, Any]:
    """A row of the summary, of what was written for a pattern."""
    try:
        found = json.loads((place / "found.json").read_text())
        source = found["source"]
        if source["file"] != file.name:
            raise ValueError(f"{place}: holds the results of {source['file']}; remove it")
        if "sha256" in source and source["sha256"] != digest(file):
            raise ValueError(f"{file} was changed after its results were made; remove {place}")
        first = found["candidates"][0]
        cell = {name: found["lattice"][name] for name in ("a", "b", "gamma")}
        return {
            "file": file.name,
            "folder": place.name,
            "lattices": 1 + len(found["others"]),
            **cell,
            **{name: first[name] for name in ("formula", "uid", "probability")},
            "none": found["none"],
            "r1": first["r_factor"],
            "error": None,
        }
    except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{place / 'found.json'}: damaged; remove {place}") from error


def _line(error: Exception, file: Path) -> str:
    """One line without the file's name, which stands beside."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    for start in (f"{file}: ", f"{file}, "):
        text = text.removeprefix(start)
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"


def _write_summary(
    output: Path, rows: Sequence[dict[str, Any]], about: Mapping[str, str]
) -> None:
    with new_file(output / _SUMMARY[1]) as part:
        part.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n")
    with new_file(output / _SUMMARY[0]) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for row in rows:
            texts = {name: inert(v) for name, v in row.items() if isinstance(v, str)}
            writer.writerow({**row, **texts})
    with new_file(output / _SUMMARY[2]) as part:
        part.write_text(folder_page.page(rows, about), "utf-8")
