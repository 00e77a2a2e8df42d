"""The crystals that are written down: known monolayers and the hypothetical starting points.

Four tables stand beside this file:

- `known.csv`: known monolayers in terms of templates, in round numbers. The free coordinates of
  SnS, GeS, GeSe, CuI, AgBr, ScCl3, YCl3, VI3, CrSiTe3, CrGeTe3, CdPS3 and the FeOCl family follow
  2DMatPedia; the other MX3 layers keep its bond lengths.
- `hypothetical.csv`: starting geometries of prototypes that no known crystal here shows.
- `low_symmetry.csv`: crystals listed site by site (role=element:u:v:z, fractions and angstrom),
  from 2DMatPedia, rounded and re-centred; `source` is the entry's name there.
- `bulk.csv`: layers as they are in bulk crystals, measured, where a lattice constant of those in
  `known.csv` differs by more than 1.5 %; `source` is who measured them. With "cell:" the
  coordinates are those of `known.csv`. They are no part of `references`.

2DMatPedia: Zhou et al., Sci. Data 6, 86, 2019; CC BY 4.0.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from ase import Atoms

from dd2d_jax.data.prototypes.layer import cell_2d, make_layer
from dd2d_jax.data.prototypes.templates import build


@dataclass(frozen=True)
class Reference:
    """A crystal from the tables; `roles` names the place that each atom takes in the prototype."""

    uid: str
    prototype: str
    atoms: Atoms
    roles: tuple[str, ...]
    known: bool
    explained: str = ""


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _floats(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def _from_template(row: dict[str, str], known: bool) -> Reference:
    species = dict(pair.split("=") for pair in row["species"].split())
    b = float(row["b"]) if row["b"] else None
    atoms, roles = build(
        row["template"], species, float(row["a"]), _floats(row["z"]), b, _floats(row["u"])
    )
    return Reference(
        row["uid"], row["template"], atoms, tuple(roles), known, row.get("explained", "")
    )


def _from_sites(row: dict[str, str]) -> Reference:
    cell = cell_2d(float(row["a"]), float(row["b"]), float(row["gamma"]))
    roles, symbols, positions = [], [], []
    for site in row["sites"].split():
        label, u, v, z = site.split(":")
        role, symbol = label.split("=")
        roles.append(role)
        symbols.append(symbol)
        positions.append([*(np.array([float(u), float(v)]) @ cell), float(z)])
    atoms = make_layer(symbols, cell, np.array(positions))
    known = row["known"] == "yes"
    return Reference(row["uid"], row["prototype"], atoms, tuple(roles), known, row["explained"])


def bulk_layers() -> list[Reference]:
    """Layers of `bulk.csv`, as flakes of several have them."""
    return [_from_template(row, known=True) for row in _rows("bulk.csv")]


@functools.cache
def references() -> tuple[Reference, ...]:
    """All crystals of the other three tables, the known ones first."""
    found = [_from_template(row, known=True) for row in _rows("known.csv")]
    found += [_from_template(row, known=False) for row in _rows("hypothetical.csv")]
    found += [_from_sites(row) for row in _rows("low_symmetry.csv")]
    return tuple(sorted(found, key=lambda reference: not reference.known))
