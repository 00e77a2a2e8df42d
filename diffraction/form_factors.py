"""Atomic form factors from tabulated parametrisations."""

from __future__ import annotations

import functools
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.radiation import Electrons, Radiation


@functools.cache
def table(name: str) -> np.ndarray:
    """Coefficients (104, C) in float64, row Z for element Z; rows that are not tabulated are NaN.

    Row 0, which stands for padding, is zero with unit widths, so that it scatters nothing and
    its gradient is finite.
    """
    text = resources.files("diffraction").joinpath("tables", f"{name}.csv").read_text()
    header, *lines = text.splitlines()
    columns = header.split(",")
    rows = [line.split(",") for line in lines]
    if "ion" in columns:  # neutral atoms only: their "ion" is the bare symbol
        rows = [r[:1] + r[2:] for r in rows if r[1].isalpha() and "v" not in r[1]]
        columns.remove("ion")
    out = np.full((104, len(columns) - 1), np.nan)
    for row in rows:
        out[int(row[0])] = [float(x) for x in row[1:]]
    out[0] = [1.0 if c[0] in "bd" else 0.0 for c in columns[1:]]
    return out


def form_factor(radiation: Radiation, numbers: jax.Array, q_squared: jax.Array) -> jax.Array:
    """Form factors of neutral atoms; zero for padding (Z = 0), NaN where there is no table.

    Args:
        radiation: electrons give f_e in angstrom (first Born approximation, without the
            relativistic mass factor), X-rays f0 in electrons.
        numbers: (...) atomic numbers.
        q_squared: (...) |q|^2 in 1/angstrom^2, q = 1/d; broadcast against `numbers`.

    Source: Lobato and Van Dyck, Acta Cryst. A 70, 636 (2014), Eq. 16; Kirkland, Advanced
    Computing in Electron Microscopy, Eq. C.15; Waasmaier and Kirfel, Acta Cryst. A 51, 416 (1995).
    """
    name = radiation.table if isinstance(radiation, Electrons) else "waasmaier_kirfel"
    q_squared = jnp.asarray(q_squared)
    rows = jnp.asarray(table(name), dtype=jnp.promote_types(q_squared.dtype, jnp.float32))
    # Plain indexing would give an element beyond the table the last one's numbers.
    rows = rows.at[numbers].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    c, x = jnp.moveaxis(rows, -1, 0), q_squared
    if name == "lobato":
        return sum(c[i] * (2 + c[i + 5] * x) / (1 + c[i + 5] * x) ** 2 for i in range(5))
    if name == "kirkland":
        lorentzians = sum(c[i] / (x + c[i + 1]) for i in (0, 2, 4))
        return lorentzians + sum(c[i] * jnp.exp(-c[i + 1] * x) for i in (6, 8, 10))
    s_squared = x / 4
    return c[0] + sum(c[i] * jnp.exp(-c[i + 5] * s_squared) for i in range(1, 6))


def check_tabulated(radiation: Radiation, numbers: np.ndarray) -> None:
    """Raise ValueError where an element has no form factor for this radiation."""
    name = radiation.table if isinstance(radiation, Electrons) else "waasmaier_kirfel"
    numbers = np.unique(numbers)
    if numbers.min() < 0 or numbers.max() > 103:
        raise ValueError(f"atomic numbers must lie in 0 to 103, got {numbers.tolist()}")
    missing = [int(z) for z in numbers if np.isnan(table(name)[z]).any()]
    if missing:
        raise ValueError(f"the {name} table has no form factor for Z = {missing}")
