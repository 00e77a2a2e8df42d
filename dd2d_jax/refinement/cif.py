"""A refined layer as CIF, symmetrised to its layer group, with standard uncertainties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import spglib
from ase.data import chemical_symbols

from dd2d_jax.crystals.structures import to_atoms
from dd2d_jax.crystals.symmetry import TOLERANCE
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.refinement.refine import Fit
from dd2d_jax.util.text import safe_name

# Length in angstrom that c has beyond the layer's thickness.
_VACUUM = 15.0
_COLUMNS = (
    "label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy", "B_iso_or_equiv",
    "adp_type",
)  # fmt: skip
# Decimals of what is fixed or exact.
_EXACT = 6
# A standard uncertainty less than this is none: fixed by symmetry.
_FIXED = 1e-5


def with_uncertainty(value: float, sigma: float) -> str:
    """Such as 3.162(4): the uncertainty in units of the last digit, from 2 to 19 of them."""
    if not sigma > _FIXED:
        return f"{value:.{_EXACT}f}"
    return f"{value:.{decimals(sigma)}f}({round(sigma * 10 ** decimals(sigma))})"


def decimals(sigma: float) -> int:
    """To which a value of this uncertainty is written; whole numbers at least."""
    digits = max(-math.floor(math.log10(sigma)), 0)
    return digits + 1 if sigma * 10**digits < 1.95 and sigma < 1 else digits


def layer_group(
    lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Rotations (g, 3, 3) and translations (g, 3) in fractions of the cell, of a crystal's layer
    group about its conventional origin; that origin (3,) in angstrom; and the group's symbol.

    Heights are in angstrom. P1 where spglib finds nothing to within `TOLERANCE`.

    Args:
        lattice: (2, 2) angstrom.
        positions: (N, 3) angstrom, no padding.
        numbers: (N,).
    """
    atoms = to_atoms(lattice, positions, numbers)
    cell = atoms.cell.array
    found = spglib.get_symmetry_layerdataset(
        (cell, atoms.get_scaled_positions(wrap=False), numbers),
        aperiodic_dir=2,
        symprec=TOLERANCE,
    )
    if found is None:
        return np.eye(3, dtype=int)[None], np.zeros((1, 3)), np.zeros(3), "p1"
    matrix = np.asarray(found.transformation_matrix, float)
    origin = -np.linalg.solve(matrix, np.asarray(found.origin_shift, float))
    rotations = np.asarray(found.rotations)
    moved = found.translations + (rotations - np.eye(3)) @ origin
    moved = np.rint(moved * 24) / 24
    moved[:, :2] %= 1
    moved[:, 2] = 0
    height = atoms.positions[:, 2].mean() - positions[:, 2].mean()
    shift = origin @ cell - [0, 0, height]
    return rotations, moved, shift, str(found.international)


def fitted_cif(fit: Fit, i: int, crystals: CrystalSet) -> str:
    """`refined_cif` of candidate i of a fit of `crystals`."""
    real = crystals.numbers[i] > 0
    return refined_cif(
        safe_name(str(crystals.formula[i])),
        crystals.numbers[i][real],
        (crystals.lattice[i].astype(float), crystals.positions[i][real].astype(float)),
        (
            np.asarray(fit.crystals.lattice[i], float),
            np.asarray(fit.crystals.positions[i], float)[real],
        ),
        np.asarray(fit.strain_sigma[i], float),
        np.asarray(fit.position_sigma[i], float)[real],
        (fit.b_atoms[i][real], fit.b_sigma[i][real]),
    )


def refined_cif(
    name: str,
    numbers: np.ndarray,
    start: tuple[np.ndarray, np.ndarray],
    fitted: tuple[np.ndarray, np.ndarray],
    strain_sigma: np.ndarray,
    position_sigma: np.ndarray,
    b: Sequence[np.ndarray],
) -> str:
    """The CIF's text: cell, operations of the layer group, and one atom of each set.

    Args:
        name: of the data block.
        numbers: (N,), no padding, and so the others.
        start: lattice (2, 2) and positions (N, 3) in angstrom before the fit, whose layer group
            is that of the fitted crystal.
        fitted: the same after it.
        strain_sigma: (2, 2).
        position_sigma: (N, 3) angstrom.
        b: B (N,) and its uncertainty (N,), angstrom^2.
    """
    rotations, translations, origin, symbol = layer_group(*start, numbers)
    lattice, positions = fitted
    cell, cell_sigma = _cell(lattice, strain_sigma, rotations)
    thickness = float(np.ptp(positions[:, 2]))
    c = thickness + _VACUUM
    # The origin goes along with the strain of the cell.
    origin = np.append(origin[:2] @ np.linalg.inv(start[0]), origin[2])
    fractional = np.column_stack([
        positions[:, :2] @ np.linalg.inv(lattice) - origin[:2],
        (positions[:, 2] - positions[:, 2].mean() + start[1][:, 2].mean() - origin[2]) / c,
    ])  # fmt: skip
    a_sigma = position_sigma @ _lengths(lattice, c)
    # Of the layers stacked with this vacuum: programs that know no layer groups ask for it.
    space = spglib.get_spacegroup_type_from_symmetry(rotations, translations, symprec=1e-4)
    sites = _sites(fractional, numbers, rotations, translations)
    first = sorted({int(images.min()) for images, _ in sites})
    lines = [
        f"data_{name}",
        f"_cell_length_a {with_uncertainty(cell[0], cell_sigma[0])}",
        f"_cell_length_b {with_uncertainty(cell[1], cell_sigma[1])}",
        f"_cell_length_c {c:.{_EXACT}f}",
        "_cell_angle_alpha 90",
        "_cell_angle_beta 90",
        f"_cell_angle_gamma {with_uncertainty(cell[2], cell_sigma[2])}",
        f"# layer group {symbol}; c is the layer's thickness and {_VACUUM:g} A of vacuum",
        f"_space_group_name_H-M_alt '{space.international_full}'",
        f"_space_group_IT_number {space.number}",
        "loop_",
        "_space_group_symop_operation_xyz",
        *(f"'{_xyz(w, t)}'" for w, t in zip(rotations, translations, strict=True)),
        "loop_",
        *(f"_atom_site_{column}" for column in _COLUMNS),
    ]
    counted: dict[int, int] = {}
    for i in first:
        number = int(numbers[i])
        counted[number] = counted.get(number, 0) + 1
        at = sites[i][1] - np.append(np.floor(sites[i][1][:2] + 1e-6), 0.0)
        place = _rounded(at, a_sigma[i], _site(at, rotations, translations))
        symbol = chemical_symbols[number]
        warm = with_uncertainty(float(b[0][i]), float(b[1][i]))
        lines.append(f"{symbol}{counted[number]} {symbol} {' '.join(place)} 1 {warm} Biso")
    return "\n".join(lines) + "\n"


def _lengths(lattice: np.ndarray, c: float) -> np.ndarray:
    """What uncertainties of Cartesian coordinates are multiplied by to be those of fractions."""
    out = np.zeros((3, 3))
    out[:2, :2] = np.abs(np.linalg.inv(lattice))
    out[2, 2] = 1 / c
    return out


def _cell(
    lattice: np.ndarray, strain_sigma: np.ndarray, rotations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """a, b (angstrom) and gamma (degrees) as the group has them, and their uncertainties."""

    def symmetrised(strain: np.ndarray) -> np.ndarray:
        moved = lattice @ (np.eye(2) + strain)
        metric = moved @ moved.T
        flat = rotations[:, :2, :2]
        metric = np.mean(flat.transpose(0, 2, 1) @ metric @ flat, 0)
        a, b = np.sqrt(np.diagonal(metric))
        return np.array([a, b, np.rad2deg(np.arccos(metric[0, 1] / (a * b)))])

    cell = symmetrised(np.zeros((2, 2)))
    steps = []
    for i, j in ((0, 0), (1, 1), (0, 1)):
        unit = np.zeros((2, 2))
        unit[i, j] = unit[j, i] = strain_sigma[i, j]
        steps.append(symmetrised(unit) - cell)
    return cell, np.sqrt(np.square(steps).sum(0))


def _sites(
    fractional: np.ndarray, numbers: np.ndarray, rotations: np.ndarray, translations: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each atom where the operations take it (g,), and its place, their mean (3,)."""
    moved = np.einsum("gij,nj->gni", rotations, fractional) + translations[:, None]
    away = moved[:, :, None] - fractional
    away[..., :2] -= np.round(away[..., :2])
    distance = np.linalg.norm(away, axis=-1)
    distance = np.where(numbers[:, None] == numbers, distance, np.inf)
    images = distance.argmin(-1)
    out = []
    for i in range(len(numbers)):
        back = []
        for k, w in enumerate(rotations):
            # Of the atom that operation k takes here, what it says of this one.
            j = int(np.argmax(images[k] == i))
            place = w @ fractional[j] + translations[k]
            shift = place - fractional[i]
            shift[:2] -= np.round(shift[:2])
            back.append(fractional[i] + shift)
        out.append((images[:, i], np.mean(back, 0)))
    return out


def _site(
    place: np.ndarray, rotations: np.ndarray, translations: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The operations that leave a place where it is, as rotations and translations."""
    out = []
    for w, t in zip(rotations, translations, strict=True):
        shift = w @ place + t - place
        whole = np.append(np.round(shift[:2]), 0.0)
        if np.abs(shift - whole).max() < 1e-4:
            out.append((w, t - whole))
    return out


def _rounded(
    place: np.ndarray, sigma: np.ndarray, site: list[tuple[np.ndarray, np.ndarray]]
) -> list[str]:
    """Three coordinates, rounded so that the site's operations still leave them alone."""
    free = sigma > _FIXED
    least = max((decimals(s) for s in sigma[free]), default=_EXACT)
    # A constraint such as (x, 2x) holds for rounded numbers of as many decimals, or of more.
    for digits in range(least, _EXACT + 1):
        steps = [(0,) if not f else (0, 1) for f in free]
        for up in itertools.product(*steps):
            low = np.where(free, np.floor(place * 10**digits), 0)
            trial = np.where(free, (low + up) / 10**digits, place)
            off = [np.abs(w @ trial + t - trial).max() for w, t in site]
            near = np.abs(trial - place).max() <= 0.51 * 10.0**-digits
            if max(off) < 1e-9 and near:
                return [_coordinate(x, s, digits) for x, s in zip(trial, sigma, strict=True)]
    return [_coordinate(x, s, _EXACT) for x, s in zip(place, sigma, strict=True)]


def _coordinate(value: float, sigma: float, digits: int) -> str:
    value = value + 0.0  # no minus before a zero
    if not sigma > _FIXED:
        return f"{value:.{_EXACT}f}"
    return f"{value:.{digits}f}({max(round(sigma * 10**digits), 1)})"


def _xyz(rotation: np.ndarray, translation: np.ndarray) -> str:
    """Such as "-x+1/2,y,-z"."""
    out = []
    for row, shift in zip(rotation, translation, strict=True):
        text = "".join(
            ("+" if r > 0 else "-") + axis for r, axis in zip(row, "xyz", strict=True) if r
        )
        n, d = int(round(shift * 24)), 24
        if n % 24:
            g = math.gcd(n, d)
            text += f"{'+' if n > 0 else '-'}{abs(n) // g}/{d // g}"
        out.append(text.lstrip("+"))
    return ",".join(out)
