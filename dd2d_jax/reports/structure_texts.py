"""Structures as the text of CIF and POSCAR files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from diffraction.crystal import set_occupancies

if TYPE_CHECKING:
    import ase

    from dd2d_jax.matching.found import Candidate


def cif(candidate: Candidate) -> bytes:
    """The structure as a CIF file; where refined, with its layer group and uncertainties."""
    if candidate.cif is not None:
        return candidate.cif.encode()
    import ase.io

    file = io.BytesIO()
    atoms = _plain(candidate)
    if is_mixed(candidate):
        set_occupancies(atoms, atoms.arrays["occupancies"])
    ase.io.write(file, atoms, format="cif")
    lines = file.getvalue().splitlines(keepends=True)
    if is_mixed(candidate):  # ASE's formula counts whole atoms
        lines = [line for line in lines if not line.startswith(b"_chemical_formula")]
    return b"".join(lines)


def is_mixed(candidate: Candidate) -> bool:
    """Whether sites are mixed: POSCAR files cannot say so, and there is none."""
    return "occupancies" in candidate.structure.arrays


def poscar(candidate: Candidate) -> bytes:
    """The structure as a POSCAR file, atoms sorted by element; of no mixed sites."""
    import ase.io

    file = io.StringIO()
    ase.io.write(file, _plain(candidate), format="vasp", direct=True, sort=True)
    return file.getvalue().encode()


def _plain(candidate: Candidate) -> ase.Atoms:
    atoms = candidate.structure.copy()
    # Writers put `info` into their comments; a stranger's text has no place there.
    atoms.info = {}
    # Files of both kinds say nothing of open axes; the vacuum does.
    atoms.pbc = True
    return atoms
