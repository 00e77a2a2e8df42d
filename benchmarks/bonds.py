"""What bonds do to the intensities of light layers: densities by PySCF against free atoms.

    pip install pyscf
    python benchmarks/bonds.py [--layer graphene h-BN g-C3N4 graphane]

The electron density of the whole layer (PBE, all electrons, 6-31G) gives structure factors by the
Mott-Bethe formula, F(q) ~ (nuclei - density) / q^2. They are compared with those of `dx.simulate`,
of free atoms and with its bonds, all without thermal motion. The outermost rods, where only core
electrons scatter, set the scale. The bonds of `dx.simulate` were fitted to graphene and h-BN and,
with a ninth of their weight, g-C3N4, beyond 0.4 / angstrom, not to graphane.
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
from dd2d_jax.libraries.library import Library  # noqa: E402

# Layers, and points of the Brillouin zone along each axis.
MESHES = {"graphene": 6, "h-BN": 6, "g-C3N4": 2, "graphane": 6}
_Q_MAX, _CORE, _BASIS, _SMEARING = 1.7, 1.4, "6-31g", 0.005
# keV: the Ewald sphere is flat, as the density's transform is taken in the layer's plane.
_FAST = 1e4


def layer_of(name: str) -> Atoms:
    """One of the layers."""
    if name == "g-C3N4":
        crystals = Library.load().crystals
        return crystals.take(np.flatnonzero(crystals.uid == name)[:1]).atoms(0)
    if name == "graphane":
        # As C2DB has it: carbon's sheet is buckled, hydrogen on both sides.
        hydrogen = Atoms("H2", [(0, 0, 8.89), (1.2695, 0.7329, 11.569)])
        return graphene("C2", a=2.539, thickness=0.459, vacuum=10) + hydrogen
    return graphene("BN", a=2.504, vacuum=10) if name == "h-BN" else graphene(a=2.461, vacuum=10)


def bonded(layer: Atoms, mesh: int, hk: np.ndarray) -> np.ndarray:
    """|F| of a layer at rods hk, but for a factor."""
    from pyscf.pbc import dft, gto
    from pyscf.pbc.df import ft_ao
    from pyscf.pbc.scf.addons import smearing_

    cell = gto.M(
        a=layer.cell.array, basis=_BASIS, unit="angstrom",
        atom=list(zip(layer.symbols, layer.positions, strict=True)),
    )  # fmt: skip
    points = cell.make_kpts([mesh, mesh, 1])
    field = dft.KRKS(cell, points).rs_density_fit()
    field.xc = "pbe"
    field = smearing_(field, sigma=_SMEARING, method="fermi")
    # Graphene's bands touch: the energy converges, its gradient does not reach the usual limit.
    field.conv_tol_grad = 5e-3
    field.kernel()
    if not field.converged:
        raise RuntimeError("the density did not converge")
    matrices = field.make_rdm1()
    found = []
    for g in hk @ cell.reciprocal_vectors()[:2]:
        density = [
            np.einsum("gij,ji->g", ft_ao.ft_aopair(cell, g[None], kpti_kptj=(k, k)), matrix)[0]
            for k, matrix in zip(points, matrices, strict=True)
        ]
        nuclei = cell.atom_charges() @ np.exp(-1j * cell.atom_coords() @ g)
        found.append(abs(nuclei - np.mean(density)) / (g @ g))
    return np.array(found)


def simulated(layer: Atoms) -> tuple[np.ndarray, ...]:
    """Rods hk, one of each length and strength, their |q| in 1/angstrom, |F| by `dx.simulate` of
    free atoms and with bonds; innermost first, without the direct beam."""
    crystal = dx.Crystal.from_ase(layer)
    free, ours = (
        dx.simulate(crystal, dx.Electrons(_FAST), _Q_MAX, 0.0, bonds=x) for x in (False, True)
    )
    q = np.linalg.norm(free.q, axis=1)
    both = np.sqrt([free.intensity, ours.intensity])
    used = np.flatnonzero(np.asarray(free.mask) & (q > 0) & (both[0] > 0.02 * both[0].max()))
    alike = np.round(np.c_[q[used], both[0, used] / both[0].max()], 2)
    used = used[np.unique(alike, axis=0, return_index=True)[1]]
    return np.asarray(free.hk)[used], q[used], both[0, used], both[1, used]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layer", nargs="+", choices=MESHES, default=list(MESHES))
    for name in parser.parse_args().layer:
        layer = layer_of(name)
        hk, q, free, ours = simulated(layer)
        whole = bonded(layer, MESHES[name], hk)
        whole *= free[q > _CORE].sum() / whole[q > _CORE].sum()
        print(f"{name}: hk, q (1/A), |F| over that of free atoms: density, bonds of dx.simulate;")
        print("  I/I(first): density, bonds of dx.simulate, free atoms")
        each = [whole / free, ours / free, *((x / x[0]) ** 2 for x in (whole, ours, free))]
        for rod, *row in zip(hk, q, *each, strict=True):
            print(f"  {rod[0]:2d} {rod[1]:2d}", *(f"{x:.3f}" for x in row), sep="  ")
        for low, high in ((0.0, 0.4), (0.4, _Q_MAX)):
            some = (q > low) & (q < high)
            if some.any():
                off = [abs(x - whole)[some].sum() / whole[some].sum() for x in (free, ours)]
                print(f"  R1 against the density, q of {low} to {high}: ", end="")
                print(f"free atoms {off[0]:.3f}, with bonds {off[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
