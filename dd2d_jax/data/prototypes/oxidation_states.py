"""Which elements may take which place: usual oxidation states and element classes.

The oxidation states are the common ones of general chemistry textbooks, chosen by hand for this
project. They bound the decorations; they do not promise that a compound is stable.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

from ase.data import atomic_numbers, covalent_radii

_OFFSET = 0.78

OXIDATION_STATES: dict[str, tuple[int, ...]] = {
    "H": (1, -1),
    "Li": (1,), "Na": (1,), "K": (1,), "Rb": (1,), "Cs": (1,),
    "Be": (2,), "Mg": (2,), "Ca": (2,), "Sr": (2,), "Ba": (2,),
    "Sc": (3,), "Y": (3,), "La": (3,), "Ce": (3, 4), "Nd": (3,), "Eu": (2, 3), "Gd": (3,),
    "Yb": (2, 3), "Lu": (3,), "Th": (4,), "U": (4, 6),
    "Ti": (2, 3, 4), "Zr": (4,), "Hf": (4,),
    "V": (2, 3, 4, 5), "Nb": (3, 4, 5), "Ta": (3, 4, 5),
    "Cr": (2, 3, 4, 6), "Mo": (2, 3, 4, 6), "W": (2, 4, 6),
    "Mn": (2, 3, 4), "Tc": (4,), "Re": (4, 5, 6),
    "Fe": (2, 3), "Ru": (3, 4), "Os": (3, 4),
    "Co": (2, 3, 4), "Rh": (3, 4), "Ir": (3, 4),
    "Ni": (2, 3, 4), "Pd": (2, 4), "Pt": (2, 4),
    "Cu": (1, 2), "Ag": (1, 2), "Au": (1, 3),
    "Zn": (2,), "Cd": (2,), "Hg": (1, 2),
    "B": (3,), "Al": (3,), "Ga": (2, 3), "In": (1, 2, 3), "Tl": (1, 3),
    "C": (4, -4), "Si": (4, 2), "Ge": (2, 4), "Sn": (2, 4), "Pb": (2, 4),
    "N": (-3, 5), "P": (-3, 3, 5), "As": (-3, 3, 5), "Sb": (-3, 3, 5), "Bi": (-3, 3),
    "O": (-2,), "S": (-2, 4, 6), "Se": (-2, 4), "Te": (-2, 4),
    "F": (-1,), "Cl": (-1,), "Br": (-1,), "I": (-1,),
}  # fmt: skip
"""Oxidation states an element may have in a hypothetical crystal."""

CLASSES: dict[str, str] = {
    "alkali": "Li Na K Rb Cs",
    "alkaline earth": "Mg Ca Sr Ba",
    "early": "Sc Y Ti Zr Hf V Nb Ta Cr Mo W Mn",
    "3d-5d": "Ti Zr Hf V Nb Ta Cr Mo W Mn Tc Re Fe Ru Os Co Rh Ir Ni Pd Pt Cu Ag Au Zn Cd Hg Sc Y",
    "post": "Al Ga In Tl Si Ge Sn Pb Sb Bi",
    "rare earth": "La Ce Nd Eu Gd Yb Lu Th U",
    "large cation": "K Rb Cs Ca Sr Ba La Ce Nd Eu Pb Tl Bi Y Na Ag Cd",
    "tetrel": "C Si Ge Sn Pb",
    "pnictogen": "P As Sb Bi",
    "light anion": "C N B",
    "nitride": "N P As",
    "chalcogen": "O S Se Te",
    "heavy chalcogen": "S Se Te",
    "halogen": "F Cl Br I",
    "terminator": "O F Cl Br I S Se Te H",
    "glue": "P As Sb Bi Si Ge Sn",
    "oxo": "P As S Se Si Ge V Mo W",
    "hydrogen": "H",
    "oxygen": "O",
    "any p": "B C N Al Si P S Ga Ge As Se In Sn Sb Te Tl Pb Bi O F",
    "III-V": "Be Mg Zn Cd Hg B Al Ga In Tl C Si Ge Sn Pb N P As Sb Bi O S Se Te",
}
CLASSES["metal"] = " ".join(
    ["Li Na K Be", CLASSES["alkaline earth"], CLASSES["3d-5d"], CLASSES["post"], "La Eu Th U"]
)
CLASSES["transition"] = CLASSES["3d-5d"]
CLASSES["anion"] = CLASSES["chalcogen"] + " " + CLASSES["halogen"]
CLASSES["any anion"] = CLASSES["anion"] + " N P As Sb Bi H"


def options(names: str, sign: str) -> list[tuple[str, int]]:
    """Elements of a class with the charges they may take in a place.

    Args:
        names: one class, or several joined by "+"; "@2" at the end keeps charge 2 alone.
        sign: "+" cations, "-" anions, "0" no charge (metallic and covalent places).

    Raises:
        KeyError: no class of that name.
    """
    names, _, only = names.partition("@")
    elements = list(dict.fromkeys(e for name in names.split("+") for e in CLASSES[name].split()))
    if sign == "0":
        return [(element, 0) for element in elements]
    found = [(e, q) for e in elements for q in OXIDATION_STATES[e] if (q < 0) == (sign == "-")]
    return [(e, q) for e, q in found if not only or abs(q) == int(only)]


@cache
def _shannon() -> dict[tuple[str, int], float]:
    text = resources.files(__package__).joinpath("shannon.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(row["element"], int(row["charge"])): float(row["radius"]) for row in rows}


def ionic_radius(element: str, charge: int) -> float:
    """Ionic radius in angstrom: Shannon's effective radius, six-coordinated where he gives one.

    `shannon.csv` holds the values as pymatgen (MIT licence) tabulates them. Ions that Shannon does
    not list take their covalent radius plus (anions) or minus (cations) 0.78 angstrom, which is the
    difference between the two radii of the halides and chalcogenides, good to 0.05 angstrom.
    """
    known = _shannon().get((element, charge))
    if known is not None:
        return known
    covalent = covalent_radii[atomic_numbers[element]]
    return covalent + _OFFSET if charge < 0 else max(covalent - _OFFSET, 0.2)
