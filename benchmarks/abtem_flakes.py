"""Diffraction images of flakes of well-known bulk crystals by abTEM, 2 to 20 layers thick.

    pip install abtem imageio tifffile
    python benchmarks/abtem_flakes.py --out DIR --seed 2
    python benchmarks/measured_retrieval.py --data DIR --kinds flake

Cells, positions and stackings are those of the bulk crystals in the literature (`BULK`), not of
the layers in a library. Of each there is a thin flake (2 to 4 layers) and a thick one (8 to 20).
The images are made as those of `abtem_images.py`, by a counting camera and as an 8-bit export.

DIR/flakes holds the images and truth.csv, where `uid` is the layer's name in the package's library.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from abtem_images import expose, images, new_folder, write_truth
from ase import Atoms
from ase.spacegroup import crystal

CAMERAS = ("counting", "8bit")
# Layers of a thin flake and of a thick one.
LAYERS = {"thin": (2, 4), "thick": (8, 20)}
_MOST = (10_000, 20_000)


class Bulk(NamedTuple):
    """A bulk crystal: its cell, sites, layers in a cell, and the axis across them."""

    group: int
    cell: tuple[float, ...]
    sites: dict[str, list[tuple[float, float, float]]]
    layers: int
    normal: str = "c"


def _hexagonal(a: float, c: float) -> tuple[float, ...]:
    return a, a, c, 90, 90, 120


def _2h(metal: str, other: str, a: float, c: float, z: float, at: float = 1 / 3) -> Bulk:
    first = (1 / 3, 2 / 3, 1 / 4) if at else (0.0, 0.0, 1 / 4)
    return Bulk(194, _hexagonal(a, c), {metal: [first], other: [(1 / 3, 2 / 3, z)]}, 2)


def _1t(metal: str, other: str, a: float, c: float, z: float) -> Bulk:
    return Bulk(164, _hexagonal(a, c), {metal: [(0, 0, 0)], other: [(1 / 3, 2 / 3, z)]}, 1)


def _orthogonal(a: float, b: float, c: float) -> tuple[float, ...]:
    return a, b, c, 90, 90, 90


BULK = {
    "graphene": Bulk(
        194, _hexagonal(2.461, 6.708), {"C": [(0, 0, 1 / 4), (1 / 3, 2 / 3, 1 / 4)]}, 2
    ),
    "h-BN": Bulk(
        194, _hexagonal(2.504, 6.661),
        {"B": [(1 / 3, 2 / 3, 1 / 4)], "N": [(1 / 3, 2 / 3, 3 / 4)]}, 2,
    ),
    "1H-MoS2": _2h("Mo", "S", 3.160, 12.294, 0.621),
    "1H-WS2": _2h("W", "S", 3.153, 12.323, 0.6225),
    "1H-MoSe2": _2h("Mo", "Se", 3.289, 12.927, 0.621),
    "1H-WSe2": _2h("W", "Se", 3.282, 12.96, 0.621),
    "1H-MoTe2": _2h("Mo", "Te", 3.519, 13.964, 0.621),
    "1H-NbSe2": _2h("Nb", "Se", 3.443, 12.547, 0.1172, 0),
    "1H-TaS2": _2h("Ta", "S", 3.314, 12.097, 0.1225, 0),
    "1H-MoS2 3R": Bulk(
        160, _hexagonal(3.166, 18.41), {"Mo": [(0, 0, 0)], "S": [(0, 0, 0.2477), (0, 0, 0.4190)]},
        3,
    ),
    "1T-TaS2": _1t("Ta", "S", 3.365, 5.897, 0.257),
    "1T-TiSe2": _1t("Ti", "Se", 3.540, 6.008, 0.2557),
    "1T-TiS2": _1t("Ti", "S", 3.407, 5.695, 0.2501),
    "1T-SnS2": _1t("Sn", "S", 3.648, 5.899, 0.25),
    "1T-SnSe2": _1t("Sn", "Se", 3.811, 6.137, 0.25),
    "1T-PtSe2": _1t("Pt", "Se", 3.728, 5.081, 0.255),
    "1T-HfS2": _1t("Hf", "S", 3.625, 5.846, 0.25),
    "1T-ZrSe2": _1t("Zr", "Se", 3.770, 6.138, 0.25),
    "1T-VSe2": _1t("V", "Se", 3.358, 6.104, 0.2567),
    "1T-PbI2": _1t("Pb", "I", 4.557, 6.979, 0.2675),
    "1T-NiTe2": _1t("Ni", "Te", 3.843, 5.265, 0.25),
    "1T'-WTe2": Bulk(
        31, _orthogonal(3.477, 6.249, 14.018),
        {
            "W": [(0, 0.6001, 0.5), (0, 0.0398, 0.0152)],
            "Te": [
                (0, 0.8575, 0.6551), (0, 0.6463, 0.1111), (0, 0.2987, 0.8599), (0, 0.2071, 0.4039),
            ],
        }, 2,
    ),
    "phosphorene": Bulk(
        64, _orthogonal(3.3136, 10.478, 4.3763), {"P": [(0, 0.10168, 0.08056)]}, 2, "b"
    ),
    "SnSe": Bulk(
        62, _orthogonal(11.501, 4.153, 4.445),
        {"Sn": [(0.1180, 1 / 4, 0.1030)], "Se": [(0.8552, 1 / 4, 0.4818)]}, 2, "a",
    ),
    "SnS": Bulk(
        62, _orthogonal(11.200, 3.987, 4.334),
        {"Sn": [(0.1194, 1 / 4, 0.1198)], "S": [(0.8508, 1 / 4, 0.4793)]}, 2, "a",
    ),
    "GeSe": Bulk(
        62, _orthogonal(10.84, 3.834, 4.39),
        {"Ge": [(0.1213, 1 / 4, 0.1115)], "Se": [(0.8534, 1 / 4, 0.5022)]}, 2, "a",
    ),
    "MoO3": Bulk(
        62, _orthogonal(13.855, 3.6964, 3.9628),
        {
            "Mo": [(0.10164, 1 / 4, 0.08669)],
            "O": [(0.4351, 1 / 4, 0.4994), (0.0866, 1 / 4, 0.5212), (0.2214, 1 / 4, 0.0373)],
        }, 2, "a",
    ),
    "GaSe": Bulk(
        194, _hexagonal(3.755, 15.94),
        {"Ga": [(1 / 3, 2 / 3, 0.175)], "Se": [(2 / 3, 1 / 3, 0.10)]}, 2,
    ),
    "InSe": Bulk(
        160, _hexagonal(4.002, 24.946),
        {
            "In": [(0, 0, 0), (0, 0, 0.1109)],
            "Se": [(1 / 3, 2 / 3, -0.0516), (1 / 3, 2 / 3, 0.1625)],
        }, 3,
    ),
    "Bi2Se3": Bulk(
        166, _hexagonal(4.138, 28.64), {"Bi": [(0, 0, 0.4008)], "Se": [(0, 0, 0), (0, 0, 0.2117)]},
        3,
    ),
    "Bi2Te3": Bulk(
        166, _hexagonal(4.386, 30.497),
        {"Bi": [(0, 0, 0.4)], "Te": [(0, 0, 0), (0, 0, 0.2095)]}, 3,
    ),
    "CrI3": Bulk(
        12, (6.866, 11.886, 6.984, 90, 108.51, 90),
        {"Cr": [(0, 0.16653, 0)], "I": [(0.2273, 0, 0.2196), (0.2502, 0.32126, 0.22668)]}, 1,
    ),
    "RuCl3": Bulk(
        12, (5.976, 10.342, 6.013, 90, 108.87, 90),
        {"Ru": [(0, 0.33441, 0)], "Cl": [(0.73023, 0, 0.23895), (0.75138, 0.17350, 0.76619)]}, 1,
    ),
    "BiI3": Bulk(
        148, _hexagonal(7.519, 20.721),
        {"Bi": [(0, 0, 0.1667)], "I": [(0.3415, 0.3395, 0.0805)]}, 3,
    ),
    "CrGeTe3": Bulk(
        148, _hexagonal(6.828, 20.56),
        {"Cr": [(0, 0, 0.3302)], "Ge": [(0, 0, 0.0590)], "Te": [(0.663, -0.033, 0.2486)]}, 3,
    ),
    "MnPS3": Bulk(
        12, (6.077, 10.524, 6.796, 90, 107.35, 90),
        {
            "Mn": [(0, 0.3326, 0)], "P": [(0.0566, 0, 0.1682)],
            "S": [(0.7593, 0, 0.2469), (0.2426, 0.1618, 0.2508)],
        }, 1,
    ),
    "FePS3": Bulk(
        12, (5.947, 10.301, 6.722, 90, 107.16, 90),
        {
            "Fe": [(0, 0.3326, 0)], "P": [(0.0566, 0, 0.1692)],
            "S": [(0.7508, 0, 0.2470), (0.2488, 0.1668, 0.2485)],
        }, 1,
    ),
    "V2O5": Bulk(
        59, _orthogonal(11.512, 3.564, 4.368),
        {
            "V": [(0.10118, 1 / 4, -0.1083)],
            "O": [(0.1043, 1 / 4, -0.469), (-0.0689, 1 / 4, 0.003), (1 / 4, 1 / 4, 0.001)],
        }, 1,
    ),
    "FeSe": Bulk(
        129, _orthogonal(3.765, 3.765, 5.518), {"Fe": [(0, 0, 0)], "Se": [(0, 0.5, 0.2673)]}, 1
    ),
    "BiOCl": Bulk(
        129, _orthogonal(3.890, 3.890, 7.37),
        {"O": [(0, 0, 0)], "Bi": [(0, 0.5, 0.1707)], "Cl": [(0, 0.5, 0.645)]}, 1,
    ),
    "Fe3GeTe2": Bulk(
        194, _hexagonal(3.991, 16.33),
        {
            "Fe": [(0, 0, 0.6718), (1 / 3, 2 / 3, 1 / 4)], "Ge": [(1 / 3, 2 / 3, 3 / 4)],
            "Te": [(2 / 3, 1 / 3, 0.5901)],
        }, 2,
    ),
    "PdSe2": Bulk(
        61, _orthogonal(5.741, 5.866, 7.691),
        {"Pd": [(0, 0, 0)], "Se": [(0.111, 0.117, 0.406)]}, 2,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder, new")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=BULK, default=list(BULK))
    args = parser.parse_args()
    folder = args.out / "flakes"
    new_folder(parser, folder)
    random = np.random.default_rng(args.seed)
    truth: list[dict[str, Any]] = []
    for name in args.only:
        for kind, (least, most) in LAYERS.items():
            bulk = BULK[name]
            cells = max(round(int(random.integers(least, most + 1)) / bulk.layers), 1)
            exposed = expose(slab(bulk, cells), random, _MOST)
            if exposed is None:
                raise ValueError(f"{name}: the cell of its layer is far from any rectangle")
            layers = cells * bulk.layers
            label = f"{name.replace(' ', '-').replace(chr(39), '')}_{layers}"
            number = len(truth) // len(CAMERAS)
            for row in images(label, exposed, folder, number, CAMERAS, random):
                truth.append({**row, "uid": name.split()[0], "kind": kind, "layers": layers})
            print(f"{number + 1} of {2 * len(args.only)}: {name}, {layers} layers", flush=True)
    write_truth(folder, truth)


def slab(bulk: Bulk, cells: int) -> Atoms:
    """So many cells of a bulk crystal, cut between two layers, its third axis up."""
    symbols = [symbol for symbol, some in bulk.sites.items() for _ in some]
    places = [place for some in bulk.sites.values() for place in some]
    # Both origins of a few groups are in use: with the second V2O5's positions are published.
    setting = 2 if bulk.group == 59 else 1
    whole = crystal(symbols, places, spacegroup=bulk.group, setting=setting, cellpar=bulk.cell)
    order = {"c": [0, 1, 2], "b": [2, 0, 1], "a": [1, 2, 0]}[bulk.normal]
    out = Atoms(
        whole.symbols, cell=whole.cell.array[order], pbc=True,
        scaled_positions=whole.get_scaled_positions()[:, order],
    )  # fmt: skip
    out.set_cell(out.cell.standard_form()[0], scale_atoms=True)
    z = np.sort(out.get_scaled_positions()[:, 2] % 1)
    gaps = np.diff(z, append=z[0] + 1)
    # Layers of SnSe are double: the gap between their halves is the wider one.
    cut = 0.25 if bulk.normal == "a" else z[gaps.argmax()] + gaps.max() / 2
    out.set_scaled_positions((out.get_scaled_positions() - [0, 0, cut]) % 1)
    out = out.repeat((1, 1, cells))
    height = out.cell.array[2, 2]
    out.set_cell([*out.cell.array[:2], [0, 0, height]])
    out.wrap(pbc=(True, True, False))
    return out


if __name__ == "__main__":
    main()
