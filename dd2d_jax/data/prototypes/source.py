"""The crystals of the project itself, known ones first, then decorations, then stacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from ase import Atoms

from dd2d_jax.data.prototypes.decorate import Batch, batches
from dd2d_jax.data.prototypes.layer import make_layer
from dd2d_jax.data.prototypes.reference import Reference, bulk_layers, references
from dd2d_jax.data.prototypes.stacks import stacks
from dd2d_jax.data.prototypes.unique import MIN_CONTACT, Seen, distances, nearest_contact

MAX_STACK_ATOMS = 14
"""A layer of more atoms is not used in a bilayer."""
STACK_POOL = 700
"""Single layers that bilayers are made of."""
HOMOBILAYERS, HETEROBILAYERS = 350, 700
_PAIRS = 25_000  # pairs of atoms handled at once, to bound the memory

Entry = tuple[Atoms, dict]


def _info(uid: str, prototype: str, known: bool) -> dict:
    return {"uid": uid, "prototype": prototype, "known": known}


class _Met:
    """What was made so far, and what was dropped for which reason."""

    def __init__(self, dropped: Counter) -> None:
        self.uids: set[str] = set()
        self._seen = Seen()
        self._dropped = dropped

    def accepts(self, numbers: np.ndarray, distance: np.ndarray, contact: float) -> bool:
        """True, and remembered, where atoms keep their distance and the crystal is new."""
        if not contact >= MIN_CONTACT:
            self._dropped["contact"] += 1
            return False
        if not self._seen.add(numbers, distance):
            self._dropped["repeat"] += 1
            return False
        return True

    def accepts_atoms(self, atoms: Atoms) -> bool:
        """The same for one crystal."""
        distance = distances(atoms.cell[None, :2, :2], atoms.positions[None])
        contact = nearest_contact(atoms.numbers[None], distance)[0]
        return self.accepts(atoms.numbers, distance[0], contact)


def _chosen(batch: Batch, limit: int, met: _Met) -> Iterator[Entry]:
    """The crystals of a batch that pass the checks, up to a limit."""
    count = 0
    size = max(1, _PAIRS // batch.numbers.shape[1] ** 2) if batch.labels else 1
    for start in range(0, len(batch.labels), size):
        part = slice(start, start + size)
        distance = distances(batch.cells[part], batch.positions[part])
        contact = nearest_contact(batch.numbers[part], distance)
        for n, label in enumerate(batch.labels[part]):
            if count == limit:
                return
            uid = f"{batch.prototype}:{label}"
            numbers = batch.numbers[start + n]
            if uid not in met.uids and met.accepts(numbers, distance[n], contact[n]):
                met.uids.add(uid)
                count += 1
                atoms = make_layer(numbers, batch.cells[start + n], batch.positions[start + n])
                yield atoms, _info(uid, batch.prototype, False)


def table_uid(reference: Reference) -> str:
    """The uid that a rule would give to a crystal of the tables."""
    roles = dict(zip(reference.roles, reference.atoms.get_chemical_symbols(), strict=True))
    return f"{reference.prototype}:{'-'.join(roles[name] for name in sorted(roles))}"


def generate(seed: int = 0, share: float = 0.6, dropped: Counter | None = None) -> Iterator[Entry]:
    """Yield the crystals made in the project, no two alike: known, then decorated, then stacked.

    Args:
        seed: chooses which decorations and stacks are made; known crystals come with every seed.
        share: part of the limits in `rules.csv` that is made: 0.6 gives about 13,000 crystals,
            1 about 22,000.
        dropped: if given, counts under "contact" and "repeat" what failed the checks.

    Yields:
        atoms: a layer with a1 and a2 in the xy plane, centred along c, which is 15 angstrom longer
            than the layer is thick; pbc is (True, True, False).
        info: `uid` (stable, readable, unique), `prototype` and `known` (False: hypothetical).
    """
    met = _Met(Counter() if dropped is None else dropped)
    tables, layers = references(), []
    met.uids.update(table_uid(reference) for reference in tables)
    for reference in tables:
        if met.accepts_atoms(reference.atoms):
            layers.append((reference.uid, reference.atoms))
            yield (
                reference.atoms.copy(),
                _info(reference.uid, reference.prototype, reference.known),
            )
    for batch in batches(tables, seed, share):
        for atoms, info in _chosen(batch, batch.limit, met):
            if len(atoms) <= MAX_STACK_ATOMS:
                layers.append((info["uid"], atoms))
            yield atoms.copy(), info
    rng = np.random.default_rng([seed, 2])
    pool = [layers[n] for n in np.sort(rng.permutation(len(layers))[:STACK_POOL])]
    homo, hetero = round(share * HOMOBILAYERS), round(share * HETEROBILAYERS)
    for prototype, label, atoms in stacks(pool, homo, hetero, seed):
        if met.accepts_atoms(atoms):
            yield atoms, _info(f"{prototype}:{label}", prototype, False)


def generate_bulk() -> Iterator[Entry]:
    """Yield layers with the cells of bulk crystals, all of them known, as `generate` does."""
    for one in bulk_layers():
        yield one.atoms, _info(one.uid, one.prototype, one.known)
