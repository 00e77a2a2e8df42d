"""Atomic form factors from tabulated parametrisations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.radiation import Electrons, Radiation
from diffraction.tabulated import RANGE, table


def coefficients(radiation: Radiation) -> np.ndarray:
    """The table (104, C) that `radiation` takes its form factors from; see `table`."""
    if isinstance(radiation, Electrons):
        return table(radiation.table)
    return table("waasmaier_kirfel", radiation.ions)


@jax.jit
def form_factor(radiation: Radiation, numbers: jax.Array, q_squared: jax.Array) -> jax.Array:
    """Form factors of atoms; zero for padding (Z = 0), NaN where there is no table.

    Args:
        radiation: electrons give f_e in angstrom (first Born approximation, without the
            relativistic mass factor), X-rays f0 in electrons.
        numbers: (...) atomic numbers.
        q_squared: (...) |q|^2 in 1/angstrom^2, q = 1/d; broadcast against `numbers`. Beyond
            `RANGE` the fits mean nothing; it is not checked here.

    Source: Lobato and Van Dyck, Acta Cryst. A 70, 636 (2014), Eq. 16; Kirkland, Advanced
    Computing in Electron Microscopy, Eq. C.15 (the form; whose numbers these are is in
    tables/LICENSES.md); Peng, Ren, Dudarev and Whelan, Acta Cryst. A 52,
    257 (1996), Eq. 3; Waasmaier and Kirfel, Acta Cryst. A 51, 416 (1995).
    """
    name = _name(radiation)
    q_squared = jnp.asarray(q_squared)
    rows = _summed_by_parts() if name == "lobato" else coefficients(radiation)
    rows = jnp.asarray(rows, dtype=jnp.promote_types(q_squared.dtype, jnp.float32))
    # Plain indexing would give an element beyond the table the last one's numbers.
    rows = rows.at[numbers].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    c, x = jnp.moveaxis(rows, -1, 0), q_squared
    if name == "lobato":
        t = _reciprocals([1 + c[i + 5] * x for i in range(5)])
        steps = (c[i + 10] * x * t[i] * t[i + 1] * (1 + t[i] + t[i + 1]) for i in range(4))
        return c[4] * t[4] * (1 + t[4]) + sum(c[i] * step for i, step in enumerate(steps))
    if name == "kirkland":
        lorentzians = sum(c[i] / (x + c[i + 1]) for i in (0, 2, 4))
        return lorentzians + sum(c[i] * jnp.exp(-c[i + 1] * x) for i in (6, 8, 10))
    s_squared = x / 4
    if name == "peng":
        return sum(c[i] * jnp.exp(-c[i + 5] * s_squared) for i in range(5))
    return c[0] + sum(c[i] * jnp.exp(-c[i + 5] * s_squared) for i in range(1, 6))


@functools.cache
def _summed_by_parts() -> np.ndarray:
    """The Lobato-Van Dyck table for sum_i A_i (g_i - g_i+1), g = t (1 + t), t = 1 / (1 + b q^2).

    With A the cumulative sums of the table's a, in the order of b, this is the same as
    sum_i a_i g_i. Light elements have large a of both signs with nearly equal b: their plain sum
    loses three digits of float32. Here g_i - g_i+1 = (b_i+1 - b_i) q^2 t_i t_i+1 (1 + t_i + t_i+1)
    loses none.

    Returns:
        (104, 14): five A, five b, and the four differences of b.
    """
    a, b = np.split(table("lobato"), 2, axis=1)
    order = np.argsort(b, axis=1)
    a, b = np.take_along_axis(a, order, 1), np.take_along_axis(b, order, 1)
    return np.concatenate([np.cumsum(a, 1), b, np.diff(b, axis=1)], 1)


def _reciprocals(x: list[jax.Array]) -> list[jax.Array]:
    """1 / x of each by one division, which costs as much as ten products."""
    before, after = [x[0]], [x[-1]]
    for a, b in zip(x[1:], x[-2::-1], strict=True):
        before.append(before[-1] * a)
        after.append(after[-1] * b)
    inverse = 1 / before[-1]
    inner = zip(before[:-2], after[-3::-1], strict=True)
    return [after[-2] * inverse, *(a * b * inverse for a, b in inner), before[-2] * inverse]


def check_tabulated(radiation: Radiation, numbers: np.ndarray) -> None:
    """Raise ValueError where an element has no form factor for this radiation."""
    numbers = np.ravel(numbers)
    if numbers.min() < 0 or numbers.max() > 103:
        raise ValueError(f"atomic numbers must lie in 0 to 103, got {np.unique(numbers).tolist()}")
    numbers = np.flatnonzero(np.bincount(numbers))  # a hundred times faster than np.unique
    missing = numbers[np.isnan(coefficients(radiation)[numbers]).any(1)]
    if len(missing):
        raise ValueError(
            f"the {_name(radiation)} table has no form factor for Z = {missing.tolist()}"
        )


def check_range(radiation: Radiation, q: float, what: str = "|q|") -> None:
    """Raise ValueError where q (1/angstrom) is beyond what the form factors were fitted to."""
    most = form_factor_range(radiation)
    if q > most:
        raise ValueError(
            f"{what} = {q:.4g} is beyond the {_name(radiation)} form factors, which hold up to "
            f"{most:g} 1/angstrom"
        )


def form_factor_range(radiation: Radiation) -> float:
    """|q| in 1/angstrom up to which the form factors of this radiation were fitted."""
    return RANGE[_name(radiation)]


def _name(radiation: Radiation) -> str:
    return radiation.table if isinstance(radiation, Electrons) else "waasmaier_kirfel"
