"""Structures as the text of CIF and POSCAR files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ase

    from dd2d_jax.matching.found import Candidate


def cif(candidate: Candidate) -> bytes:
    """The structure as a CIF file; where refined, with its layer group and uncertainties."""
    if candidate.cif is not None:
        return candidate.cif.encode()
    import ase.io

    file = io.BytesIO()
    ase.io.write(file, _plain(candidate), format="cif")
    return file.getvalue()


def poscar(candidate: Candidate) -> bytes:
    """The structure as a POSCAR file, atoms sorted by element."""
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
