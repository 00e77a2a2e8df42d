"""What was found, as a folder of files: structures, page, JSON, CSV and picture.

Names and formulas come from strangers' files: they make no path and no formula of their own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dd2d_jax.reports import figures, query_page
from dd2d_jax.reports.as_json import candidate_dict, found_dict
from dd2d_jax.reports.structure_texts import cif, is_mixed, poscar
from dd2d_jax.util.files import new_folder
from dd2d_jax.util.text import inert, safe_name

if TYPE_CHECKING:

    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.matching.found import Found


def write_found(
    found: Found,
    directory: Path,
    measured: Measured | None = None,
    source: dict[str, str] | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write structures, page.html, found.json, .csv and .png as a new folder, all or nothing.

    Args:
        found: of further lattices, structures go into the folders lattice2 and so on.
        directory: the folder to make.
        measured: the image that the pattern was seen in, for the page.
        source: what found.json is to say of where the pattern came from.
        about: for the head of the page, see `query_page.page`.

    Raises:
        FileExistsError: something is there already.
        OSError: the folder cannot be written.
    """
    about = {**({} if source is None else {"file": source["file"]}), **(about or {})}
    with new_folder(directory) as part:
        for number, one in enumerate((found, *found.others), 1):
            folder = "" if number == 1 else f"lattice{number}/"
            (part / folder).mkdir(exist_ok=True)
            for rank, candidate in enumerate(one.candidates, 1):
                stem = part / f"{folder}{rank:02d}_{safe_name(candidate.formula)}"
                stem.with_name(stem.name + ".cif").write_bytes(cif(candidate))
                if not is_mixed(candidate):
                    stem.with_name(stem.name + ".vasp").write_bytes(poscar(candidate))
            figures.save(figures.plot_found(one, measured), part / f"{folder}found.png")
        data = found_dict(found) if source is None else {"source": source, **found_dict(found)}
        text = json.dumps(data, indent=2, allow_nan=False)
        (part / "found.json").write_text(text + "\n")
        _write_csv(found, part / "found.csv")
        (part / "page.html").write_text(query_page.page(found, measured, about), "utf-8")


def _write_csv(found: Found, path: Path) -> None:
    rows = [
        {"lattice": number, "rank": rank, **candidate_dict(c)}
        for number, one in enumerate((found, *found.others), 1)
        for rank, c in enumerate(one.candidates, 1)
    ]
    for row in rows:
        del row["structure"]
        row["undetermined"] = ", ".join(row["undetermined"])
        row["correlations"] = ", ".join(
            f"{one} and {other}: {value:.2f}" for one, other, value in row["correlations"]
        )
        row["doubts"] = "; ".join(row["doubts"])
        for field in ("uid", "formula", "prototype", "parent"):
            row[field] = inert(row[field])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["lattice", "rank"])
        writer.writeheader()
        writer.writerows(rows)
