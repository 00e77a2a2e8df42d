"""Which elements may take the places of a crystal's own: those of like charge and like chemistry.

How alike two elements are is read from their distance on the scale of Mendeleev numbers (Pettifor,
Solid State Commun. 51, 31, 1984), as pymatgen tabulates it: elements that stand near each other
there replace each other in the crystals that are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from dd2d_jax.data.prototypes.oxidation_states import OXIDATION_STATES, ionic_radius
from dd2d_jax.data.prototypes.relax import Radii

# Costs, as negative log-probabilities: of a place on Pettifor's scale, of a unit by which an
# element's charge changes, and of a cell that is not neutral where the parent's is.
_PLACE = 1 / 8
_CHARGE = 0.3
_UNBALANCED = 3.0
# Combinations tried: with every element exchanged, and with two at most.
_ALL = 20_000
_TWO = 60
# Charges are sought by trying all; of more elements there are too many.
_MAX_ELEMENTS = 6


@dataclass(frozen=True)
class Substitutions:
    """K ways to put other elements into a crystal of m elements.

    Attributes:
        numbers: (K, m) atomic numbers in place of the crystal's own, all different.
        charges: (K, m) integers; 0 where the places are not taken as ions.
        own: (m,) charges of the crystal's own elements.
        log_prior: (K,) the higher, the more alike the elements.
    """

    numbers: np.ndarray
    charges: np.ndarray
    own: np.ndarray
    log_prior: np.ndarray


def substitutions(
    elements: np.ndarray, counts: np.ndarray, allowed: frozenset[int] | None = None
) -> Substitutions:
    """Substitutions of a crystal's elements; each changes one element at least.

    Args:
        elements: (m,) atomic numbers, all different.
        counts: (m,) atoms of each in the cell.
        allowed: atomic numbers that the result may hold; None: any with a known charge.
    """
    own = charges_of(tuple(elements.tolist()), tuple(counts.tolist()))
    options = [_options(z, q, allowed) for z, q in zip(elements.tolist(), own, strict=True)]
    m = len(elements)
    wide = [o[:_TWO] for o in options]
    narrow = [o[: max(2, int(_ALL ** (1 / m)))] for o in options]
    keep = [o[o[:, 0] == z] for o, z in zip(options, elements.tolist(), strict=True)]
    tables = [_grid(narrow)]
    for two in combinations(range(m), 2) if m > 2 else ():
        tables.append(_grid([wide[i] if i in two else keep[i] for i in range(m)]))
    picked = np.concatenate(tables)  # (K, m, 3): number, charge, cost
    numbers, charges = picked[..., 0].astype(int), picked[..., 1].astype(int)
    log_prior = -picked[..., 2].sum(1)
    if any(own):
        log_prior -= _UNBALANCED * ((charges * counts).sum(1) != 0)
    ordered = np.sort(numbers, 1)
    good = (ordered[:, 1:] != ordered[:, :-1]).all(1) & (numbers != elements).any(1)
    best = np.flatnonzero(good)
    best = best[np.argsort(-log_prior[best], kind="stable")]
    # Of the charges that the same elements may take the likeliest.
    _, first = np.unique(numbers[best] @ 128 ** np.arange(m), return_index=True)
    best = best[np.sort(first)]
    return Substitutions(numbers[best], charges[best], np.array(own, int), log_prior[best])


def _grid(options: list[np.ndarray]) -> np.ndarray:
    """All combinations (K, m, 3) of the rows of m tables."""
    index = np.indices([len(o) for o in options]).reshape(len(options), -1)
    return np.stack([o[i] for o, i in zip(options, index, strict=True)], 1)


def _options(z: int, charge: int, allowed: frozenset[int] | None) -> np.ndarray:
    """Rows (number, charge, cost) of what may stand in the place of an element, nearest first."""
    rows = []
    for symbol, states in OXIDATION_STATES.items():
        other = atomic_numbers[symbol]
        away = _PLACE * abs(_pettifor(other) - _pettifor(z))
        for q in states if charge else (0,):
            if q * charge > 0 or not charge:
                rows.append((other, q, away + _CHARGE * abs(q - charge)))
    if chemical_symbols[z] not in OXIDATION_STATES:
        rows.append((z, charge, 0.0))
    if allowed is not None:
        rows = [row for row in rows if row[0] in allowed]
    return np.array(sorted(rows, key=lambda row: row[2]), float).reshape(-1, 3)


@cache
def charges_of(elements: tuple[int, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    """Charges of a cell's elements, all 0 where no neutral choice of the usual ones is known.

    Of several choices the one with the negative charges at the most electronegative elements.
    """
    from pymatgen.core import Element

    none = (0,) * len(elements)
    states = [OXIDATION_STATES.get(chemical_symbols[z], ()) for z in elements]
    if len(elements) > _MAX_ELEMENTS or len(elements) < 2:
        return none
    pull = [Element.from_Z(z).X for z in elements]
    neutral = [
        c for c in product(*states) if sum(n * q for n, q in zip(counts, c, strict=True)) == 0
    ]
    weigh = lambda c: sum(n * q * x for n, q, x in zip(counts, c, pull, strict=True))  # noqa: E731
    return min(neutral, key=weigh, default=none)


@cache
def _pettifor(z: int) -> float:
    from pymatgen.core import Element

    return float(Element.from_Z(z).mendeleev_no)


def radii(numbers: np.ndarray, charges: np.ndarray) -> Radii:
    """Covalent and ionic radii, angstrom, of atomic numbers and charges of one shape."""
    return Radii(covalent_radii[numbers], _ionic_radii()[numbers, charges])


@cache
def _ionic_radii() -> np.ndarray:
    """By atomic number and charge; negative charges count from the end."""
    table = np.zeros((len(chemical_symbols), 20))
    for symbol, states in OXIDATION_STATES.items():
        for q in states:
            table[atomic_numbers[symbol], q] = ionic_radius(symbol, q)
    return table
