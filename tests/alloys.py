"""Crystals with mixed sites, as pymatgen has them and as CIF files, for several test files."""

import warnings
from pathlib import Path

from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

Site = dict[str, float]


def dichalcogenide(metal: Site, chalcogen: Site, a: float = 3.18) -> Structure:
    """A 1H layer whose sites hold elements by their shares; `a` in angstrom."""
    height = 1.565 / 18
    places = [[0, 0, 0.5], [1 / 3, 2 / 3, 0.5 + height], [1 / 3, 2 / 3, 0.5 - height]]
    return Structure(Lattice.hexagonal(a, 18), [metal, chalcogen, chalcogen], places)


MOS2 = dichalcogenide({"Mo": 1}, {"S": 1})
WS2 = dichalcogenide({"W": 1}, {"S": 1})
ALLOY = dichalcogenide({"Mo": 0.5, "W": 0.5}, {"S": 1})
OTHER_ALLOY = dichalcogenide({"Mo": 1}, {"S": 0.6, "Se": 0.4})


def write_cifs(folder: Path, **structures: Structure) -> Path:
    """Each as NAME.cif in a folder."""
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Site labels are not unique")
        for name, structure in structures.items():
            CifWriter(structure).write_file(folder / f"{name}.cif")
    return folder
