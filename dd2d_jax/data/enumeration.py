"""Millions of hypothetical crystals: every prototype with all elements that its places may take.

The rules are those of `prototypes`, looser: the elements of a place's class, without regard to the
sum of charges. Crystals come in ranges, any of which is made on its own and is the same each time.
Nothing is made twice: of the choices of elements that a symmetry of the bare prototype turns into
each other one is taken.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from dd2d_jax.crystals.canonical import _UNIMODULAR, gauss_reduction
from dd2d_jax.crystals.canonical_batch import canonical_forms
from dd2d_jax.crystals.structures import Layer, layer
from dd2d_jax.data import crystal_set, prototypes, usable
from dd2d_jax.data.crystal_set import CrystalSet, reduced_formula
from dd2d_jax.data.prototypes import decorate
from dd2d_jax.data.prototypes.oxidation_states import options
from dd2d_jax.data.prototypes.reference import Reference, references
from dd2d_jax.data.prototypes.unique import MIN_CONTACT, distances, nearest_contact
from dd2d_jax.util.files import new_file
from dd2d_jax.util.progress import progress

_TOGETHER = 256  # crystals made at once
_WRITTEN = 1000  # rows of a database written between two steps of the progress
_CHOICES = 2**18  # choices of elements looked at at once
_SAME = 0.02  # angstrom: sites of a prototype as near as this are the same


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """One prototype in one variant: a place's sites take one element, of `elements`.

    Attributes:
        prototype: as in `prototypes`.
        reference: gives topology and geometry.
        roles: (N,) the place of each site; those of the reference with a prime for its other part.
        names: the places, sorted.
        elements: for each place the (element, charge) that it may take.
        cell, positions: (2, 2), (N, 3) angstrom, of the reference.
        rule: for each place its sign and class.
        taken: elements by place of the families before that have the same prototype.
    """

    prototype: str
    reference: Reference
    roles: tuple[str, ...]
    names: tuple[str, ...]
    elements: tuple[tuple[tuple[str, int], ...], ...]
    cell: np.ndarray
    positions: np.ndarray
    rule: dict[str, tuple[str, str]]
    taken: tuple[tuple[tuple[tuple[str, int], ...], ...], ...]

    @functools.cached_property
    def choices(self) -> np.ndarray:
        """(T,) the choices of elements, none equal to another by symmetry, in a fixed order."""
        sizes = [len(some) for some in self.elements]
        primed = [(n, self.names.index(name[:-1])) for n, name in enumerate(self.names)
                  if name.endswith("'")]  # fmt: skip
        sites = [self.names.index(role) for role in self.roles]
        first = [self.roles.index(name) for name in self.names]
        # Numbers of elements rise with their index, so that both order choices alike.
        numbers = [np.array([atomic_numbers[e] for e, _ in some], np.uint8)
                   for some in self.elements]  # fmt: skip
        permutations = self._symmetries()
        tables = self._tables(permutations)
        kept = []
        for start in range(0, int(np.prod(sizes)), _CHOICES):
            flat = np.arange(start, min(start + _CHOICES, int(np.prod(sizes))))
            picks = np.unravel_index(flat, sizes)
            chosen = np.stack([z[p] for z, p in zip(numbers, picks, strict=True)], 1)
            good = np.all([chosen[:, i] != chosen[:, j] for i, j in primed], 0)
            good = np.broadcast_to(good, len(flat)).copy()
            for before in self.taken:
                own = [[atomic_numbers[e] for e, _ in some] for some in before]
                good &= ~np.all([np.isin(chosen[:, i], some) for i, some in enumerate(own)], 0)
            colours = chosen[:, sites]
            for permutation in permutations:
                other = colours[:, permutation]
                places = other[:, first]
                # Another choice of this family, that is, not a place in part.
                within = (places[:, sites] == other).all(1)
                for i, j in primed:
                    within &= places[:, i] != places[:, j]
                good &= ~(within & _less(other, colours))
            for known in tables:
                good &= ~(colours == known).all(1)
            kept.append(flat[good].astype(np.uint32))
        return np.concatenate(kept)

    def _tables(self, permutations: list[np.ndarray]) -> np.ndarray:
        """(M, N) the numbers of the crystals of the tables that are of this family."""
        found = []
        for one in references():
            symbols = one.atoms.get_chemical_symbols()
            elements = dict(zip(one.roles, symbols, strict=True))
            if one.prototype == self.prototype and elements.keys() == set(self.names):
                colours = np.array([atomic_numbers[elements[role]] for role in self.roles])
                found += [colours, *(colours[permutation] for permutation in permutations)]
        return np.unique(found, axis=0) if found else np.zeros((0, len(self.roles)), int)

    def _symmetries(self) -> list[np.ndarray]:
        """Permutations (N,) of the sites by the bare prototype's symmetries, which keep classes."""
        basis = gauss_reduction(self.cell)
        cell = basis @ self.cell
        frac = self.positions[:, :2] @ np.linalg.inv(cell)
        z = self.positions[:, 2] - np.ptp(self.positions[:, 2]) / 2 - self.positions[:, 2].min()
        kinds = [self.rule[role] for role in self.roles]
        alike = np.array([[a == b for b in kinds] for a in kinds])
        metric = cell @ cell.T
        found = set()
        for turn in _UNIMODULAR:
            if np.abs(turn @ metric @ turn.T - metric).max() > _SAME:
                continue
            side = np.round(np.linalg.det(turn))  # a rotation in space, never a mirror image
            turned = frac @ turn
            for target in range(len(frac)):
                gap = turned[:, None] - turned[0] + frac[target] - frac
                gap = (gap - np.round(gap)) @ cell
                rise = side * z[:, None] - z
                same = (np.abs(gap).max(-1) < _SAME) & (np.abs(rise) < _SAME) & alike
                if (same.sum(0) == 1).all() and (same.sum(1) == 1).all():
                    found.add(tuple(same.argmax(0).tolist()))
        return [np.array(p) for p in sorted(found) if p != tuple(range(len(frac)))]

    def make(self, choices: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Uids, cells (K, 2, 2), positions (K, N, 3) and numbers (K, N) of some choices (K,)."""
        picks = np.unravel_index(choices, [len(some) for some in self.elements])
        rows, uids = [], []
        for pick in zip(*(p.tolist() for p in picks), strict=True):
            trio = zip(self.names, self.elements, pick, strict=True)
            chosen = {name: some[i] for name, some, i in trio}
            uids.append(f"{self.prototype}:{'-'.join(e for e, _ in chosen.values())}")
            rows.append([chosen[role] for role in self.roles])
        cells, moved, numbers = decorate.fit(
            self.reference, list(self.roles), self.rule, self.cell, self.positions, rows
        )
        return uids, cells, moved, numbers


@dataclasses.dataclass(frozen=True)
class Enumeration:
    """The first `rows` crystals of the enumeration: known ones, then of every family a like share.

    Some of them are left out when they are made, as two atoms would be too close.
    """

    rows: int

    @classmethod
    def parse(cls, text: str) -> Enumeration:
        """From "enumerate:1000000".

        Raises:
            ValueError: no number, or more than there are.
        """
        count = text.partition(":")[2].replace("_", "")
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(f"{text!r}: write enumerate:N, N crystals, such as enumerate:1000000")
        most = len(references()) + sum(len(family.choices) for family in families())
        if int(count) > most:
            raise ValueError(f"{text!r}: there are {most} crystals in all")
        return cls(int(count))

    @property
    def identity(self) -> str:
        """Changes with the rules and the code."""
        here = Path(__file__).parent
        forms = here.parent / "crystals"
        files = [here / "enumeration.py", forms / "canonical.py", forms / "canonical_batch.py"]
        files += sorted(p for p in (here / "prototypes").iterdir() if p.suffix in (".py", ".csv"))
        return hashlib.sha256(b"\0".join(p.read_bytes() for p in files)).hexdigest()[:12]

    @functools.cached_property
    def _shares(self) -> np.ndarray:
        """(families + 1,) where each family's crystals begin."""
        sizes = np.array([len(family.choices) for family in families()])
        wanted = self.rows - len(references())
        low, high = 0, int(sizes.max())
        while low < high:  # the least limit that gives enough
            middle = (low + high) // 2
            low, high = (
                (low, middle) if np.minimum(sizes, middle).sum() >= wanted else (middle + 1, high)
            )
        return len(references()) + np.concatenate([[0], np.cumsum(np.minimum(sizes, low))])

    def read(self, start: int, stop: int) -> CrystalSet:
        """Crystals [start, stop), in canonical setting, less those whose atoms are too close."""
        report = crystal_set.new_report()
        stop = min(stop, self.rows)
        report["rows"] = stop - start
        infos, layers = [], []
        for info, crystal in self._crystals(start, stop, report):
            info["formula"] = _formula(tuple(sorted(crystal.numbers.tolist())))
            infos.append(info)
            layers.append(crystal)
        report["kept"] = len(layers)
        return crystal_set.crystal_set(infos, layers, report)

    def _crystals(self, start: int, stop: int, report: dict) -> Iterator[tuple[dict, Layer]]:
        tables = references()
        for one in tables[start : min(stop, len(tables))]:
            info = {"uid": one.uid, "prototype": one.prototype, "known": one.known}
            yield info, layer(one.atoms)
        shares = self._shares
        for family, begin, end in zip(families(), shares[:-1], shares[1:], strict=True):
            here = np.arange(max(start, begin), min(stop, end)) - begin
            for part in range(0, len(here), _TOGETHER):
                some = family.choices[_spread(here[part : part + _TOGETHER], len(family.choices))]
                yield from _apart(family, some, report)


def write_db(path: Path, count: int) -> dict:
    """The first crystals of the enumeration as a new ASE database; returns their report.

    Raises:
        ValueError: there are fewer.
    """
    from ase.db import connect

    made = Enumeration.parse(f"enumerate:{count}")
    reports = []
    with new_file(path) as part, connect(part, type="db", use_lock_file=False) as database:
        starts = range(0, count, _WRITTEN)
        for start in progress(starts, count, "making crystals", weight=lambda _: _WRITTEN):
            crystals = made.read(start, start + _WRITTEN)
            reports.append(crystals.report)
            for i in range(len(crystals)):
                crystals.write_row(database, i)
    return crystal_set.merged_report(reports)


def _apart(
    family: Family, choices: np.ndarray, report: dict
) -> Iterator[tuple[dict, Layer]]:
    """The crystals of some choices, without those that have atoms too close."""
    uids, cells, positions, numbers = family.make(choices)
    contact = nearest_contact(numbers, distances(cells, positions))
    forms = canonical_forms(cells, positions, numbers)
    for uid, near, *form in zip(uids, contact, *forms, strict=True):
        if not near >= MIN_CONTACT:
            usable.skip(report, "atoms too close", f"{uid}: {near:.2f} of the summed radii")
        else:
            real = form[2] > 0
            info = {"uid": uid, "prototype": family.prototype, "known": False}
            yield info, Layer(form[0], form[1][real], form[2][real])


@functools.cache
def families() -> tuple[Family, ...]:
    """Every rule and variant of `prototypes/rules.csv`."""
    by_uid = {reference.uid: reference for reference in references()}
    text = resources.files(prototypes).joinpath("rules.csv").read_text(encoding="utf-8")
    made: dict[str, list[Family]] = {}
    for row in csv.DictReader(text.splitlines()):
        for entry in row["variants"].split(";"):
            variant = entry.strip().rsplit(" ", 1)[0]
            family = _family(by_uid[row["reference"]], row["roles"], variant)
            same = made.setdefault(family.prototype, [])
            taken = tuple(other.elements for other in same)
            same.append(dataclasses.replace(family, taken=taken))
    return tuple(family for same in made.values() for family in same)


def _family(reference: Reference, specification: str, variant: str) -> Family:
    name, cell, positions, roles, rule = decorate.variant_of(reference, specification, variant)
    names = tuple(sorted(set(roles)))
    own = decorate.charges_of(reference, rule)
    elements = []
    for place in names:
        wanted = own[place.rstrip("'")]
        states: dict[str, list[int]] = {}
        for element, charge in options(rule[place][1], rule[place][0]):
            states.setdefault(element, []).append(charge)
        # Each element in the state that is most like that of the reference's own.
        nearest = [(e, min(q, key=lambda c: (abs(c - wanted), c))) for e, q in states.items()]
        elements.append(tuple(sorted(nearest, key=lambda pair: atomic_numbers[pair[0]])))
    return Family(
        name, reference, tuple(roles), names, tuple(elements), cell, positions, rule, ()
    )


def _less(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(K,) True where row a (K, N) comes before row b in the dictionary."""
    differ = a != b
    first = differ.argmax(1)
    rows = np.arange(len(a))
    return a[rows, first] < b[rows, first]


def _spread(places: np.ndarray, count: int) -> np.ndarray:
    """Places spread over 0 ... count - 1, each once: a few are a fair sample."""
    step = max(1, round(0.6180339887 * count))
    while np.gcd(step, count) != 1:
        step += 1
    return places.astype(np.int64) * step % count


@functools.lru_cache(maxsize=10_000)
def _formula(numbers: tuple[int, ...]) -> str:
    return reduced_formula(np.array(numbers))
