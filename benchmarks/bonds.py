"""What bonds do to the intensities of light layers: densities by PySCF against free atoms.

    pip install pyscf
    python benchmarks/bonds.py [--layer graphene h-BN graphane]

The electron density of the whole layer (PBE, all electrons, 6-31G, 6 x 6 points of the Brillouin
zone) gives structure factors by the Mott-Bethe formula, F(q) ~ (nuclei - density) / q^2. They are
compared with those of `dx.simulate`, of free atoms and with its bonds, all without thermal motion.
The outermost two rings, where only core electrons scatter, set the scale. The bonds of
`dx.simulate` were fitted to graphene and h-BN, not to graphane.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import graphene

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffraction as dx  # noqa: E402

LAYERS = {
    "graphene": graphene("C2", a=2.461, vacuum=10),
    "h-BN": graphene("BN", a=2.504, vacuum=10),
    # As C2DB has it: carbon's sheet is buckled, hydrogen on both sides.
    "graphane": graphene("C2", a=2.539, thickness=0.459, vacuum=10)
    + Atoms("H2", [(0, 0, 8.89), (1.2695, 0.7329, 11.569)]),
}
RINGS = np.array([(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (2, 2), (4, 1)])
_BASIS, _MESH, _SMEARING = "6-31g", 6, 0.005
# keV: the Ewald sphere is flat, as the density's transform is taken in the layer's plane.
_FAST = 1e4


def bonded(layer: Atoms) -> np.ndarray:
    """|F| of a layer at `RINGS`, but for a factor."""
    from pyscf.pbc import dft, gto
    from pyscf.pbc.df import ft_ao
    from pyscf.pbc.scf.addons import smearing_

    cell = gto.M(
        a=layer.cell.array, basis=_BASIS, dimension=2, unit="angstrom",
        atom=list(zip(layer.symbols, layer.positions, strict=True)),
    )  # fmt: skip
    points = cell.make_kpts([_MESH, _MESH, 1])
    field = dft.KRKS(cell, points).density_fit()
    field.xc = "pbe"
    field = smearing_(field, sigma=_SMEARING, method="fermi")
    field.kernel()
    if not field.converged:
        raise RuntimeError("the density did not converge")
    found = []
    for g in RINGS @ cell.reciprocal_vectors()[:2]:
        density = [
            np.einsum("gij,ji->g", ft_ao.ft_aopair(cell, g[None], kpti_kptj=(k, k)), matrix)[0]
            for k, matrix in zip(points, field.make_rdm1(), strict=True)
        ]
        nuclei = cell.atom_charges() @ np.exp(-1j * cell.atom_coords() @ g)
        found.append(abs(nuclei - np.mean(density)) / (g @ g))
    return np.array(found)


def simulated(layer: Atoms, bonds: bool) -> tuple[np.ndarray, np.ndarray]:
    """|q| of `RINGS`, 1/angstrom, and |F| by `dx.simulate`."""
    crystal = dx.Crystal.from_ase(layer)
    pattern = dx.simulate(crystal, dx.Electrons(_FAST), 2.5, 0.0, hk=RINGS, bonds=bonds)
    return np.linalg.norm(pattern.q, axis=1), np.sqrt(np.asarray(pattern.intensity))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layer", nargs="+", choices=LAYERS, default=list(LAYERS))
    for name in parser.parse_args().layer:
        (q, free), (_, ours) = (simulated(LAYERS[name], x) for x in (False, True))
        whole = bonded(LAYERS[name])
        whole *= np.mean(free[-2:] / whole[-2:])
        print(f"{name}: hk, q (1/A), |F| over that of free atoms: density, bonds of dx.simulate;")
        print("  I/I(10): density, bonds of dx.simulate, free atoms")
        each = [whole / free, ours / free, *((x / x[0]) ** 2 for x in (whole, ours, free))]
        for hk, *row in zip(RINGS, q, *each, strict=True):
            print(f"  {hk[0]}{hk[1]}", *(f"{x:.3f}" for x in row), sep="  ")
        off = [np.abs(x - whole).sum() / whole.sum() for x in (free, ours)]
        print(f"  R1 against the density: free atoms {off[0]:.3f}, with bonds {off[1]:.3f}")


if __name__ == "__main__":
    main()
