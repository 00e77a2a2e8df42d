"""Structure prototypes as stacks of atomic planes, in words that fit on a line.

A template is written "lattice role:sites role:sites ...", one item for each plane from the top of
the layer to its bottom. The sites are letters for places in the plane. In a hexagonal cell A, B and
C are those of close packing; in a square or rectangular cell o is the corner, i the centre, x and y
the middles of the edges. So "hex X:A M:B X:A" is 1H-MoS2 and "hex X:A M:B X:C" is 1T-PtS2.

Heights and lattice constants are no part of a template; they belong to a crystal and stand in
`known.csv` and `hypothetical.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from dd2d_jax.data.prototypes.layer import cell_2d, make_layer

TEMPLATES: dict[str, str] = {
    # nets of one or two planes
    "honeycomb": "hex A:B B:C",
    "buckled honeycomb": "hex A:B B:C",
    "functionalised honeycomb": "hex T:B A:B B:C T:C",
    "C3N": "hex A:s B:BC",
    "kagome": "hex A:k",
    "kagome MX": "hex M:k X:BC",
    "kagome M3X2": "hex X:B M:k X:C",
    "Lieb": "sq B:o X:e",
    "capped Lieb": "sq A:i B:o X:e A:i",
    "square MX": "sq M:o X:i",
    "black phosphorus": "rect A:fG A:gF",
    "GeS": "rect M:f X:G X:g M:F",
    "borophene": "rect A:o A:i",
    # three planes
    "1H": "hex X:A M:B X:A",
    "1T": "hex X:A M:B X:C",
    "1H Janus": "hex X:A M:B Y:A",
    "1T Janus": "hex X:A M:B Y:C",
    "HgI2": "sq X:x M:o X:y",
    "brucite": "hex H:A O:A M:B O:C H:C",
    # four planes
    "GaSe": "hex X:A M:B M:B X:A",
    "GaSe-D3d": "hex X:A M:B M:B X:C",
    "CuI": "hex X:B M:C M:B X:C",
    "ZrCl": "hex X:A M:B M:C X:A",
    "FeSe": "sq X:x M:oi X:y",
    "PbO": "sq M:x X:oi M:y",
    "rock salt": "sq X:o M:i X:i M:o",
    "VOCl2": "rect X:y M:o O:x X:y",
    # MX3 and the ternaries of the same net
    "BiI3": "hex X:p M:BC X:q",
    "MX3 prismatic": "hex X:p M:BC X:p",
    "MX3 kagome": "hex X:k M:BC X:k",
    "MPS3": "hex X:p G:A M:BC G:A X:q",
    # five and more planes
    "Bi2Te3": "hex X:A M:B X:C M:A X:B",
    "In2Se3": "hex X:A M:B X:B M:C X:A",
    "MnBi2Te4": "hex X:A B:B X:C A:A X:B B:C X:A",
    "ZnIn2S4": "hex X:A B:C X:C A:A X:B B:B X:A",
    "Fe3GeTe2": "hex X:C M:A N:C G:B M:A X:C",
    "FeOCl": "rect Y:o M:y X:i X:o M:x Y:i",
    "lepidocrocite": "rect X:o M:y X:i X:o M:x X:i",
    "PbFCl": "sq Y:x M:y X:oi M:x Y:y",
    "LiFeAs": "sq A:y X:x M:oi X:y A:x",
    "MoSi2N4": "hex N:A G:B N:B M:C N:B G:B N:A",
    # carbides, nitrides and their electron-rich relatives
    "MXene M2X": "hex M:B X:A M:C",
    "MXene M2X-1H": "hex M:B X:A M:B",
    "MXene M2XT2": "hex T:C M:B X:A M:C T:B",
    "MXene M2X(OH)2": "hex H:C T:C M:B X:A M:C T:B H:B",
    "MXene M3X2": "hex M:B X:C M:A X:B M:C",
    "MXene M3X2T2": "hex T:A M:B X:C M:A X:B M:C T:A",
    "MXene M3X2T2-ABA": "hex T:A M:B X:A M:C X:A M:B T:A",
    "MXene M4X3": "hex M:A X:C M:B X:A M:C X:B M:A",
    "MXene M4X3T2": "hex T:B M:A X:C M:B X:A M:C X:B M:A T:C",
    # perovskite layers
    "K2NiF4": "sq X:o A:i B:o X:e A:i X:o",
    "Sr3Ti2O7": "sq X:o A:i B:o X:e A:i X:o B:o X:e A:i X:o",
}

_T = 1.0 / 3.0
_SITES: dict[str, list[tuple[float, float]]] = {
    "A": [(0.0, 0.0)],
    "B": [(_T, 2 * _T)],
    "C": [(2 * _T, _T)],
    "k": [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)],
    "o": [(0.0, 0.0)],
    "i": [(0.5, 0.5)],
    "x": [(0.5, 0.0)],
    "y": [(0.0, 0.5)],
    "e": [(0.5, 0.0), (0.0, 0.5)],
    # the six places of a 2 x 2 honeycomb that are left beside B and C
    "s": [
        (_T / 2, _T),
        (_T / 2, 2.5 * _T),
        (2 * _T, 2.5 * _T),
        (2.5 * _T, 2 * _T),
        (2.5 * _T, _T / 2),
        (_T, _T / 2),
    ],
}


def _sites(letter: str, u: float) -> list[tuple[float, float]]:
    """Fractional places of a letter; p, q, f, F, g, G depend on the free parameter u."""
    movable = {
        "p": [(u, 0.0), (0.0, u), (-u, -u)],
        "q": [(-u, 0.0), (0.0, -u), (u, u)],
        "f": [(u, 0.0)],
        "F": [(0.5 + u, 0.5)],
        "g": [(-u, 0.0)],
        "G": [(0.5 - u, 0.5)],
    }
    return movable[letter] if letter in movable else _SITES[letter]


def plane_heights(z: Sequence[float], planes: int) -> list[float]:
    """Heights (angstrom) of all planes: where only the upper half is given, mirror it."""
    if len(z) == planes:
        return list(z)
    if len(z) != (planes + 1) // 2:
        raise ValueError(f"{len(z)} heights for {planes} planes")
    lower = [-height for height in z[: planes // 2]]
    return list(z) + lower[::-1]


def build(
    template: str,
    species: Mapping[str, str],
    a: float,
    z: Sequence[float],
    b: float | None = None,
    u: Sequence[float] = (),
) -> tuple[Atoms, list[str]]:
    """Build a crystal of a template; returns the atoms and the role of each.

    Args:
        template: key of TEMPLATES.
        species: the element of every role.
        a, b: lattice constants in angstrom; b only for rectangular cells.
        z: heights of the planes from the top, angstrom; half of them for a symmetric layer.
        u: free in-plane coordinates (fractions): that of the first role in the template that has
            one, then that of the other roles (the same where left out).

    Raises:
        KeyError: unknown template, or a role without an element.
        ValueError: the number of heights fits neither all planes nor half of them.
    """
    lattice, *planes = TEMPLATES[template].split()
    cell = cell_2d(a, b if b else a, 120.0 if lattice == "hex" else 90.0)
    first = next((p[0] for p in planes if set(p[2:]) & set("pqfFgG")), "")
    roles, positions = [], []
    for plane, height in zip(planes, plane_heights(z, len(planes)), strict=True):
        role, letters = plane.split(":")
        free = (u[0] if role == first else u[-1]) if u else 0.0
        for place in [place for letter in letters for place in _sites(letter, free)]:
            roles.append(role)
            positions.append([*(np.array(place) @ cell), height])
    return make_layer([species[role] for role in roles], cell, np.array(positions)), roles
