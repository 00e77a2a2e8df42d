"""Hypothetical crystals: the references decorated with the elements that chemistry allows them.

`rules.csv` says, for every reference, which elements each role may take. A role written "M+" is a
cation, "X-" an anion; where all roles are charged the cell must be neutral in usual oxidation
states. "A0" is a metallic or covalent place, whose charge is not counted. A variant splits a role
over different elements: "X/side" gives the upper and lower half of the layer different elements
(Janus), "M/half" every other site, "M/one" one site; "2x1", "2x2" and "r3" enlarge the cell first.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from dd2d_jax.data.prototypes.oxidation_states import OXIDATION_STATES, ionic_radius, options
from dd2d_jax.data.prototypes.reference import Reference
from dd2d_jax.data.prototypes.relax import Radii, redecorate

SUPERCELLS = {
    "2x1": np.array([[2, 0], [0, 1]]),
    "2x2": np.array([[2, 0], [0, 2]]),
    "r3": np.array([[1, -1], [1, 2]]),
}
_DRAWS = 40_000  # combinations tried in a rule whose full list is longer
_SPARE = 1.5  # crystals made for each one wanted, since some will collide or repeat


@dataclass(frozen=True)
class Batch:
    """Crystals of one prototype: atomic numbers (K, N), cells (K, 2, 2), positions (K, N, 3)."""

    prototype: str
    labels: list[str]
    numbers: np.ndarray
    cells: np.ndarray
    positions: np.ndarray
    limit: int


def _enlarge(reference: Reference, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Cell, positions and roles of a supercell; copies of the cell follow one another."""
    cell, positions = reference.atoms.cell[:2, :2], reference.atoms.positions
    if not name:
        return cell, positions, list(reference.roles)
    matrix = SUPERCELLS[name]
    size = round(abs(np.linalg.det(matrix)))
    inverse = np.linalg.inv(matrix)
    grid = np.array([(p, q) for p in range(-3, 4) for q in range(-3, 4)])
    fractions = grid @ inverse
    inside = grid[((fractions > -1e-6) & (fractions < 1 - 1e-6)).all(1)]
    if len(inside) != size:
        raise AssertionError(f"supercell {name}: {len(inside)} cells instead of {size}")
    shifts = np.zeros((size, 3))
    shifts[:, :2] = inside @ cell
    moved = (positions[None] + shifts[:, None]).reshape(-1, 3)
    return matrix @ cell, moved, list(reference.roles) * size


def _split(roles: list[str], positions: np.ndarray, split: str) -> list[str]:
    """Rename part of a role's sites: "X/side", "X/half" or "X/one"; the new name is X'."""
    role, how = split.split("/")
    sites = [n for n, name in enumerate(roles) if name == role]
    if how == "side":
        middle = (positions[:, 2].max() + positions[:, 2].min()) / 2
        chosen = {n for n in sites if positions[n, 2] < middle - 1e-3}
    elif how == "half":
        copies = len(sites) // 2
        chosen = set(sites[copies:])
    else:
        chosen = set(sites[:1])
    return [name + "'" if n in chosen else name for n, name in enumerate(roles)]


def _combinations(
    choices: list[list[tuple[str, int]]], counts: list[int], balance: bool, rng: np.random.Generator
) -> np.ndarray:
    """Indices (K, roles) of neutral combinations in random order, each set of elements once."""
    sizes = [len(c) for c in choices]
    total = int(np.prod(sizes))
    flat = rng.permutation(total) if total <= _DRAWS else rng.integers(0, total, _DRAWS)
    picks = np.stack(np.unravel_index(flat, sizes), axis=1)
    if balance:
        charge = np.zeros(len(picks), int)
        for column, (choice, count) in enumerate(zip(choices, counts, strict=True)):
            charge += count * np.array([q for _, q in choice])[picks[:, column]]
        picks = picks[charge == 0]
    return picks


def _specification(text: str) -> dict[str, tuple[str, str]]:
    """Sign and class of every role: "M+=metal" gives {"M": ("+", "metal")}."""
    pairs, last = {}, ""
    for word in text.split():
        if "=" in word:
            left, names = word.split("=")
            last = left[:-1]
            pairs[last] = (left[-1], names)
        else:  # a class name of two words
            pairs[last] = (pairs[last][0], pairs[last][1] + " " + word)
    return pairs


def _reference_charges(
    elements: dict[str, str], signs: dict[str, str], counts: dict[str, int]
) -> dict[str, int]:
    """Charges of the reference's own elements: the neutral choice, else the highest ones."""
    allowed = []
    for role, element in elements.items():
        states = [q for q in OXIDATION_STATES[element] if (q < 0) == (signs[role] == "-")]
        allowed.append(states[::-1] if signs[role] != "0" and states else [0])
    every = [dict(zip(elements, choice, strict=True)) for choice in product(*allowed)]
    neutral = [c for c in every if sum(counts[role] * q for role, q in c.items()) == 0]
    return (neutral or every)[0]


def _radii(symbols: list[list[str]], charges: list[list[int]]) -> Radii:
    covalent = [[covalent_radii[atomic_numbers[s]] for s in row] for row in symbols]
    ionic = [
        [ionic_radius(s, q) if q else 0.0 for s, q in zip(row, qs, strict=True)]
        for row, qs in zip(symbols, charges, strict=True)
    ]
    return Radii(np.array(covalent), np.array(ionic))


def decorate(
    reference: Reference, specification: str, variant: str, limit: int, rng: np.random.Generator
) -> Batch:
    """All or `limit` decorations of a reference.

    Args:
        reference: gives the topology and the starting geometry.
        specification: what each role may be, such as "M+=metal X-=anion".
        variant: "plain", or words such as "2x1 M/half X/side".
        limit: crystals wanted; up to half as many more are made, for the checks to drop.
        rng: chooses among the combinations.
    """
    prototype, cell, positions, roles, rule = variant_of(reference, specification, variant)
    names = sorted(set(roles))
    choices = [options(rule[name][1], rule[name][0]) for name in names]
    balance = all(sign != "0" for sign, _ in rule.values())
    picks = _combinations(choices, [roles.count(name) for name in names], balance, rng)
    labels, rows, seen = [], [], set()
    for pick in picks.tolist():
        chosen = {
            name: choice[index] for name, choice, index in zip(names, choices, pick, strict=True)
        }
        elements = tuple(element for element, _ in chosen.values())
        halves_differ = all(chosen[n][0] != chosen[n[:-1]][0] for n in names if n.endswith("'"))
        if elements in seen or not halves_differ:
            continue
        seen.add(elements)
        labels.append("-".join(elements))
        rows.append([chosen[role] for role in roles])
        if len(rows) >= _SPARE * limit:
            break
    cells, moved, numbers = fit(reference, roles, rule, cell, positions, rows)
    return Batch(prototype, labels, numbers, cells, moved, limit)


def variant_of(
    reference: Reference, specification: str, variant: str
) -> tuple[str, np.ndarray, np.ndarray, list[str], dict[str, tuple[str, str]]]:
    """Prototype, cell, positions, roles and rule (role: sign and class) of a variant."""
    words = [word for word in variant.split() if word != "plain"]
    supercell = words.pop(0) if words and words[0] in SUPERCELLS else ""
    cell, positions, roles = _enlarge(reference, supercell)
    for word in words:
        roles = _split(roles, positions, word)
    wanted = _specification(specification)
    rule = {name: wanted[name.rstrip("'")] for name in sorted(set(roles))}
    prototype = " ".join([reference.prototype, *([supercell] if supercell else []), *words])
    return prototype, cell, positions, roles, rule


def charges_of(reference: Reference, rule: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Charges of the reference's own elements by role."""
    signs = {name.rstrip("'"): sign for name, (sign, _) in rule.items()}
    own = dict(zip(reference.roles, reference.atoms.get_chemical_symbols(), strict=True))
    counts = {role: reference.roles.count(role) for role in own}
    return _reference_charges(own, signs, counts)


def fit(
    reference: Reference,
    roles: list[str],
    rule: dict[str, tuple[str, str]],
    cell: np.ndarray,
    positions: np.ndarray,
    rows: list[list[tuple[str, int]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, positions and numbers of decorations: rows of (element, charge) for every site."""
    own = dict(zip(reference.roles, reference.atoms.get_chemical_symbols(), strict=True))
    charges = charges_of(reference, rule)
    symbols = [own[role.rstrip("'")] for role in roles]
    old = _radii([symbols], [[charges[role.rstrip("'")] for role in roles]])
    new = _radii([[e for e, _ in row] for row in rows], [[q for _, q in row] for row in rows])
    site_signs = np.array([{"+": 1, "-": -1, "0": 0}[rule[role][0]] for role in roles])
    numbers = np.array([[atomic_numbers[e] for e, _ in row] for row in rows])
    start = np.array([atomic_numbers[s] for s in symbols])
    old = Radii(old.covalent[0], old.ionic[0])
    cells, moved = redecorate(start, cell, positions, old, new, site_signs)
    return cells, moved, numbers


def batches(references: Sequence[Reference], seed: int, share: float) -> Iterator[Batch]:
    """The decorations of every rule and variant of `rules.csv`, to a share of their limits."""
    by_uid = {reference.uid: reference for reference in references}
    text = resources.files(__package__).joinpath("rules.csv").read_text(encoding="utf-8")
    for number, row in enumerate(csv.DictReader(text.splitlines())):
        for place, entry in enumerate(row["variants"].split(";")):
            variant, limit = entry.strip().rsplit(" ", 1)
            rng = np.random.default_rng([seed, number, place])
            reference = by_uid[row["reference"]]
            yield decorate(reference, row["roles"], variant, math.ceil(share * int(limit)), rng)
