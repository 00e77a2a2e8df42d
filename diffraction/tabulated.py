"""Tabulated parametrisations of atomic form factors, as they are stored."""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np

# |q| in 1/angstrom up to which each parametrisation was fitted (q = 2 s).
RANGE = {"lobato": 12.0, "kirkland": 12.0, "peng": 4.0, "waasmaier_kirfel": 12.0}
# Indexed by the atomic number; 0 is padding.
SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr"
).split()


@functools.cache
def table(name: str, ions: tuple[str, ...] = ()) -> np.ndarray:
    """Coefficients (104, C) in float64, row Z for element Z; rows that are not tabulated are NaN.

    Row 0, which stands for padding, is zero with unit widths, so that it scatters nothing and
    its gradient is finite. `ions`, for the X-ray table, stand in the rows of their elements.

    Raises:
        ValueError: an ion that is not tabulated, or two of one element.
    """
    text = resources.files("diffraction").joinpath("tables", f"{name}.csv").read_text()
    header, *lines = text.splitlines()
    columns = header.split(",")
    rows = [line.split(",") for line in lines]
    if "ion" in columns:
        rows = [r[:1] + r[2:] for r in _choose(rows, ions)]
        columns.remove("ion")
    out = np.full((len(SYMBOLS), len(columns) - 1), np.nan)
    for row in rows:
        out[int(row[0])] = [float(x) for x in row[1:]]
    out[0] = [1.0 if c[0] in "bd" else 0.0 for c in columns[1:]]
    return out


def _choose(rows: list[list[str]], ions: tuple[str, ...]) -> list[list[str]]:
    """Rows (Z, symbol, ...) of the neutral atoms, and after them of the ions."""
    neutral = [r for r in rows if r[1] == SYMBOLS[int(r[0])]]
    charged = {r[1]: r for r in rows if r[1][-1] in "+-"}
    elements = []
    for ion in ions:
        if ion not in charged:
            element = ion.rstrip("+-0123456789")
            known = [x for x in charged if x.rstrip("+-0123456789") == element]
            there = ", ".join(known) if known else f"no ions of {element!r}"
            raise ValueError(f"the X-ray table has no ion {ion!r}; it has {there}")
        elements.append(charged[ion][0])
    if len(set(elements)) < len(elements):
        raise ValueError(f"ions must name each element once, got {ions}")
    return neutral + [charged[ion] for ion in ions]
