"""Structure factors on continuous rods and the pattern where the Ewald sphere cuts them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.bonds import Bonds, bond_factor, bonds_of
from diffraction.crystal import Crystal, reciprocal
from diffraction.form_factors import (
    check_range,
    check_tabulated,
    form_factor,
    form_factor_range,
)
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Radiation, Xrays
from diffraction.tabulated import SYMBOLS

# Spot slots are padded to multiples of this, so that crystals of like size share a compilation.
_SLOTS = 32
# A ring at q_max is kept as a whole, whichever way its rods are rounded (in float32, too).
_EDGE = 1 + 1e-6


def structure_factor(
    crystal: Crystal,
    q: jax.Array,
    radiation: Radiation,
    b_iso: float | jax.Array | Mapping[str, float] = 0.0,
) -> jax.Array:
    """F(q) = sum_j o_j f_j(|q|) exp(-B_j |q|^2 / 4 - 2 pi^2 q U_j q) exp(2 pi i q . r_j).

    At any 3D q. The occupancies o are 1 and the U are 0 where the crystal has none; B comes on
    top of U (B = 8 pi^2 U where U is isotropic).

    Args:
        crystal: batch axes (...), N atoms.
        q: (..., K, 3) scattering vectors in the crystal's frame, 1/angstrom (no 2 pi).
        radiation: electrons (F in angstrom) or X-rays (F in electrons).
        b_iso: B in angstrom^2; a number, (...), (..., N), or by element as {"Mo": 0.3, "S": 0.5}.

    Returns:
        (..., K) complex.

    Raises:
        ValueError: an element without a form factor or without a B, or |q| beyond the range of
            the form factors (only where the values are known, not traced; a missing B is NaN
            there).
    """
    check_concrete(radiation, crystal)
    q = jnp.asarray(q)
    q = q.astype(jnp.promote_types(q.dtype, jnp.float32))  # whole numbers, too
    if q.size and not isinstance(q, jax.core.Tracer):
        check_range(radiation, float(np.sqrt(np.max(np.sum(np.square(q), -1)))))
    parts = atom_factors(crystal, q, radiation, b_values(b_iso, crystal.numbers))
    return jax.lax.complex(*(jnp.sum(part, -1) for part in parts))


def atom_factors(
    crystal: Crystal, q: jax.Array, radiation: Radiation, b_iso: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Real and imaginary part, (..., K, N) each, of what every atom adds to F; see `amplitudes`."""
    weights = amplitudes(crystal, q, radiation, b_iso)
    turns = jnp.einsum("...kd,...nd->...kn", q, crystal.positions, precision="highest")
    # Whole turns are taken off first: float32 sines lose digits at large arguments.
    angle = 2 * jnp.pi * (turns - jnp.round(turns))
    return weights * jnp.cos(angle), weights * jnp.sin(angle)


def b_values(
    b_iso: float | jax.Array | Mapping[str, float], numbers: jax.Array
) -> float | jax.Array:
    """B as a number, (...) or (..., N); what is given by element becomes (..., N).

    Raises:
        ValueError: a negative B or one that is no number (where it is known, not traced), a key
            that is no element, or an element without a B (NaN where traced).
    """
    if not isinstance(b_iso, Mapping):
        _check_b(b_iso, numbers)
        return b_iso
    for element, value in b_iso.items():
        _check_b(value, None, f" of {element}")
    unknown = [x for x in b_iso if x not in SYMBOLS[1:]]
    if unknown:
        raise ValueError(f"b_iso names {unknown}, which are not elements")
    known = np.array([0, *(SYMBOLS.index(x) for x in b_iso)])
    if not isinstance(numbers, jax.core.Tracer):
        missing = [SYMBOLS[z] for z in np.setdiff1d(np.asarray(numbers), known)]
        if missing:
            raise ValueError(f"b_iso has no B for {', '.join(missing)}; it has {list(b_iso)}")
    values = jnp.stack([jnp.zeros(()), *(jnp.asarray(b, float) for b in b_iso.values())])
    return jnp.full(len(SYMBOLS), jnp.nan).at[known].set(values)[numbers]


def _check_b(
    b_iso: float | jax.Array, numbers: jax.Array | None, of: str = ""
) -> None:
    """Check that B are 0 or more; what padding holds does not matter."""
    if isinstance(b_iso, jax.core.Tracer):
        return
    values = np.asarray(b_iso)
    wrong = ~(values >= 0)
    if values.ndim and numbers is not None and values.shape == numbers.shape:
        if isinstance(numbers, jax.core.Tracer):
            return
        wrong = wrong & (np.asarray(numbers) > 0)
    if wrong.any():
        raise ValueError(f"b_iso{of} must be 0 or more, in angstrom^2, got {values[wrong][0]:g}")


def amplitudes(
    crystal: Crystal, q: jax.Array, radiation: Radiation, b_iso: float | jax.Array
) -> jax.Array:
    """Form factors with occupancies and Debye-Waller factors, (..., K, N); 0 for padding.

    Args:
        crystal: batch axes (...).
        q: (..., K, 3) in the crystal's frame, 1/angstrom.
        radiation: electrons or X-rays.
        b_iso: B in angstrom^2; a number, (...) or (..., N), see `b_values`.
    """
    numbers = crystal.numbers
    present = numbers > 0
    b_iso = jnp.asarray(b_iso, q.dtype)
    if b_iso.ndim < numbers.ndim:
        b_iso = b_iso[..., None]
    else:  # what padding holds may not turn a zero into NaN
        b_iso = jnp.where(present, b_iso, 0.0)
    f = form_factor(radiation, numbers[..., None, :], jnp.sum(q * q, -1)[..., :, None])
    f = jnp.where(present[..., None, :], f, 0.0)
    f = f * jnp.exp(_motion(crystal, q, b_iso))
    if crystal.occupancy is None:
        return f
    return f * jnp.where(present, crystal.occupancy, 0.0)[..., None, :]


def _motion(crystal: Crystal, q: jax.Array, b_iso: jax.Array) -> jax.Array:
    """Logarithms (..., K, N) of the atoms' Debye-Waller factors; B (..., 1) or (..., N)."""
    exponent = -b_iso[..., None, :] * jnp.sum(q * q, -1)[..., :, None] / 4
    if crystal.u is None:
        return exponent
    u = jnp.where((crystal.numbers > 0)[..., None, None], crystal.u, 0.0)
    squares = jnp.einsum("...ki,...nij,...kj->...kn", q, u, q, precision="highest")
    return exponent - 2 * jnp.pi**2 * squares


def _of_bonds(
    bonds: Bonds, crystal: Crystal, q: jax.Array, radiation: Radiation, b_iso: float | jax.Array
) -> jax.Array:
    """What bonds (..., M) add to F (..., K); they move as their atoms do in the mean."""
    count = crystal.numbers.shape[-1]
    b_iso = jnp.asarray(b_iso, q.dtype)
    b_iso = b_iso if b_iso.ndim == crystal.numbers.ndim else b_iso[..., None]
    motion = _motion(crystal, q, b_iso)
    motion = jnp.broadcast_to(motion, (*motion.shape[:-1], count))
    first, second = (
        jnp.take_along_axis(motion, bonds.ends[..., None, :, end], -1) for end in (0, 1)
    )
    damped = jnp.exp((first + second) / 2)
    squared = jnp.sum(q * q, -1)[..., None]
    factor = bond_factor(radiation, bonds.electrons[..., None, :], squared)
    turns = jnp.einsum("...kd,...md->...km", q, bonds.middle, precision="highest")
    angle = 2 * jnp.pi * (turns - jnp.round(turns))
    return jnp.sum(factor * damped * jax.lax.complex(jnp.cos(angle), jnp.sin(angle)), -1)


def reflections(lattice: np.ndarray, q_max: float) -> np.ndarray:
    """Miller indices of all rods with 0 < |q_par| <= q_max, sorted by |q_par|.

    Args:
        lattice: (..., 2, 2) concrete, in angstrom.
        q_max: in 1/angstrom.

    Returns:
        (..., K, 2) int32; K is the same for the batch, a multiple of 32, padded with (0, 0).

    Raises:
        ValueError: q_max is not positive, a lattice is not finite or has no area, or nothing is
            within q_max.
    """
    lattice = np.asarray(lattice, float)
    _check_q_max(q_max)
    flat = lattice.reshape(-1, 2, 2)
    check_lattices(flat)
    count = np.zeros(len(flat), int)
    parts = []
    # |h| = |q . a1| <= q_max |a1| bounds the search.
    bounds = np.floor(q_max * _EDGE * np.linalg.norm(flat, axis=2)).astype(int)
    for bound in np.unique(bounds, axis=0):
        rows = np.flatnonzero((bounds == bound).all(1))
        h, k = np.mgrid[-bound[0] : bound[0] + 1, -bound[1] : bound[1] + 1]
        hk = np.stack([h.ravel(), k.ravel()], -1)
        q = hk @ np.linalg.inv(flat[rows]).swapaxes(1, 2)
        length = np.hypot(q[..., 0], q[..., 1])
        length[(length == 0) | (length > q_max * _EDGE)] = np.inf
        count[rows] = np.isfinite(length).sum(1)
        # Rounded, so that rods of one ring keep one order on every machine: by h, then k.
        order = np.argsort(np.round(length, 6), axis=1, kind="stable")
        parts.append((rows, hk[order[:, : count[rows].max()]]))
    longest = int(count.max())
    if longest == 0:
        raise ValueError(f"no rod lies within q_max = {q_max} 1/angstrom; take a larger one")
    size = -(-longest // _SLOTS) * _SLOTS
    out = np.zeros((len(flat), size, 2), np.int32)
    for rows, hk in parts:
        there = np.arange(hk.shape[1]) < count[rows, None]
        out[rows, : hk.shape[1]] = np.where(there[..., None], hk, 0)
    return out.reshape(*lattice.shape[:-2], size, 2)


@jax.jit
def ewald_qz(
    q_par: jax.Array, wavelength: float | jax.Array, tilt: tuple[float, float] | jax.Array = (0, 0)
) -> jax.Array:
    """Height at which the Ewald sphere cuts a rod, along the layer normal.

    At normal incidence q_z = 1/lambda - sqrt(1/lambda^2 - q_par^2). Under tilt it is the small
    root of |q|^2 = (2/lambda) (R q)_z with q = q_par + q_z n, the exact sphere.

    Args:
        q_par: (..., K, 2) in-plane coordinates of the rods in the crystal's frame, 1/angstrom.
        wavelength: angstrom; a number or (...).
        tilt: degrees, (2,) or (..., 2); see `simulate`.

    Returns:
        (..., K) in 1/angstrom; NaN where the sphere does not reach the rod.
    """
    q_par = jnp.asarray(q_par)
    q_par = q_par.astype(jnp.promote_types(q_par.dtype, jnp.float32))  # whole numbers, too
    k = 1.0 / jnp.asarray(wavelength, q_par.dtype)[..., None]
    rotation = tilt_matrix(tilt, q_par.dtype)
    squared = jnp.sum(q_par * q_par, -1)
    up = jnp.einsum("...kd,...d->...k", q_par, rotation[..., 2, :2], precision="highest")
    linear = k * rotation[..., 2, 2, None]
    constant = squared - 2 * k * up
    return small_root(linear, constant)


def small_root(linear: jax.Array, constant: jax.Array) -> jax.Array:
    """The small root x of x^2 - 2 linear x + constant = 0; NaN where there is none."""
    under_root = linear * linear - constant
    reached = under_root > 0
    # The root of what is not reached would make the gradients of all other rods NaN.
    root = jnp.sqrt(jnp.where(reached, under_root, 1.0))
    # Written without the difference of two large numbers.
    return jnp.where(reached, constant / (linear + root), jnp.nan)


def tilt_matrix(tilt: tuple[float, float] | jax.Array, dtype=jnp.float32) -> jax.Array:
    """Rotations (..., 3, 3) of the crystal: about x by tilt[..., 0], then about y by tilt[..., 1].

    Args:
        tilt: (..., 2) degrees.
        dtype: of the result.
    """
    angles = jnp.deg2rad(jnp.asarray(tilt, dtype))
    ca, cb = jnp.moveaxis(jnp.cos(angles), -1, 0)
    sa, sb = jnp.moveaxis(jnp.sin(angles), -1, 0)
    rows = [[cb, sa * sb, ca * sb], [jnp.zeros_like(ca), ca, -sa], [-sb, sa * cb, ca * cb]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def kinematic_pattern(
    crystal: Crystal,
    radiation: Radiation,
    q_max: float,
    b_iso: float | jax.Array | Mapping[str, float] = 0.0,
    tilt: tuple[float, float] | jax.Array = (0.0, 0.0),
    hk: np.ndarray | jax.Array | None = None,
    bonds: bool = False,
) -> Pattern:
    """`simulate` with method="kinematic"; arguments, result and errors are given there."""
    check_concrete(radiation, crystal)
    if not isinstance(q_max, jax.core.Tracer):
        _check_q_max(q_max)
    tilt = jnp.asarray(tilt, float)
    batch = crystal.numbers.shape[:-1]
    check_tilt(tilt, batch)
    if hk is None:
        if isinstance(crystal.lattice, jax.core.Tracer):
            raise ValueError(
                "the lattice is traced, so its rods are unknown: pass "
                "hk=reflections(lattice, q_max) made outside of the transformation"
            )
        hk = reflections(np.asarray(crystal.lattice), q_max)
    hk = jnp.asarray(hk)
    if not jnp.issubdtype(hk.dtype, jnp.integer) or hk.ndim < 2 or hk.shape[-1] != 2:
        raise ValueError(f"hk must be integers (..., K, 2), got {hk.dtype} {hk.shape}")
    if not any(isinstance(x, jax.core.Tracer) for x in (q_max, hk, crystal.lattice)):
        basis = np.linalg.inv(np.asarray(crystal.lattice, float)).swapaxes(-1, -2)
        check_reach(radiation, q_max, tilt, np.asarray(hk) @ basis)
    elif not isinstance(q_max, jax.core.Tracer):
        check_range(radiation, q_max, "q_max")
    b_iso = b_values(b_iso, crystal.numbers)
    found = jax.tree.map(jnp.asarray, bonds_of(crystal)) if bonds else None
    return _simulate(crystal, radiation, q_max, b_iso, tilt, hk, found)


@jax.jit
def _simulate(crystal, radiation, q_max, b_iso, tilt, hk, bonds) -> Pattern:
    dtype = crystal.positions.dtype
    q_par = jnp.einsum(
        "...kd,...de->...ke", hk.astype(dtype), reciprocal(crystal.lattice), precision="highest"
    )
    present = jnp.any(hk != 0, -1)
    qz = ewald_qz(q_par, radiation.wavelength, tilt)
    mask = present & (jnp.sum(q_par * q_par, -1) <= (q_max * _EDGE) ** 2) & jnp.isfinite(qz)
    q = jnp.concatenate([q_par, jnp.where(mask, qz, 0.0)[..., None]], -1)
    lab = jnp.einsum("...kd,...ed->...ke", q, tilt_matrix(tilt, dtype), precision="highest")
    across = jnp.where(mask[..., None], lab[..., :2], 0.0)
    factor = structure_factor(crystal, q, radiation, b_iso)
    if bonds is not None:
        factor += _of_bonds(bonds, crystal, q, radiation, b_iso)
    intensity = jnp.real(factor) ** 2 + jnp.imag(factor) ** 2
    if not isinstance(radiation, Electrons):
        x, y = across[..., 0], across[..., 1]
        intensity = intensity * xray_factor(radiation, x, y, jnp.sum(q * q, -1), mask)
    return Pattern(
        q=across,
        intensity=jnp.where(mask, intensity, 0.0),
        hk=jnp.where(mask[..., None], hk, 0),
        mask=mask,
    )


def xray_factor(
    radiation: Xrays, x: jax.Array, y: jax.Array, q_squared: jax.Array, mask: jax.Array
) -> jax.Array:
    """`lorentz_polarisation` of spots (..., K) at x and y across the beam, 1/angstrom."""
    wavelength = jnp.asarray(radiation.wavelength)[..., None]
    # The Lorentz factor has poles, and what is masked stays away from them.
    squared = jnp.where(mask, q_squared, 2 / wavelength**2)
    # Polarisation along x keeps from scattering along x, along y from scattering along y.
    lost = jnp.asarray(radiation.polarisation)[..., None] * (x**2 - y**2) * wavelength**2
    return lorentz_polarisation(squared, wavelength, lost)


def lorentz_polarisation(
    q_squared: jax.Array, wavelength: float | jax.Array, lost: float | jax.Array = 0.0
) -> jax.Array:
    """(1 + cos^2 2theta - lost) / (2 sin 2theta), with sin theta = lambda |q| / 2.

    With the scattered wave's direction k and the degree of polarisation p along x, `lost` is
    p (k_x^2 - k_y^2), so that the factor is P / sin 2theta with
    P = 1 - (1 + p) k_x^2 / 2 - (1 - p) k_y^2 / 2: what a dipole radiates, averaged over the two
    polarisations of the beam. An unpolarised beam has P = (1 + cos^2 2theta) / 2.

    Args:
        q_squared: (...) |q|^2 in 1/angstrom^2.
        wavelength: angstrom.
        lost: p (k_x^2 - k_y^2); 0 for an unpolarised beam.
    """
    sin_squared = q_squared * wavelength**2 / 4
    cos_two_theta = 1 - 2 * sin_squared
    sin_two_theta = 2 * jnp.sqrt(sin_squared * (1 - sin_squared))
    return (1 + cos_two_theta**2 - lost) / (2 * sin_two_theta)


def detector_positions(
    pattern: Pattern, radiation: Radiation, camera_length: float | jax.Array
) -> jax.Array:
    """Where the spots fall on a flat detector across the beam: L q / sqrt(1/lambda^2 - q^2).

    This is the gnomonic projection of the scattered waves' directions: a spot lies L tan 2theta
    from the beam's. Waves are taken to go forward (2theta < 90 degrees).

    Args:
        pattern: spots of `simulate`, or measured ones; batch axes (...).
        radiation: what was scattered; one energy or wavelength, or one for each pattern.
        camera_length: from the crystal to the detector, in the units that the result is to have;
            a number or (...).

    Returns:
        (..., K, 2) along the laboratory's x and y; zero where masked, NaN where |q| > 1/lambda.

    Raises:
        ValueError: the camera length is not positive.
    """
    if not isinstance(camera_length, jax.core.Tracer) and not np.all(np.asarray(camera_length) > 0):
        raise ValueError(f"the camera length must be positive, got {camera_length}")
    across = jnp.where(pattern.mask[..., None], pattern.q, 0.0)
    dtype = across.dtype
    wavelength = jnp.asarray(radiation.wavelength, dtype)[..., None]
    squared = 1 / wavelength**2 - jnp.sum(across**2, -1)
    forward = squared > 0
    along = jnp.sqrt(jnp.where(forward, squared, 1.0))
    scale = jnp.asarray(camera_length, dtype)[..., None] / along
    return across * jnp.where(forward, scale, jnp.nan)[..., None]


def check_lattices(lattice: np.ndarray) -> None:
    """Check that lattices (n, 2, 2) are finite and have an area."""
    area = np.abs(np.linalg.det(lattice))
    if not (area > 1e-3).all():
        row = int(np.argmin(np.where(np.isfinite(area), area, -1)))
        raise ValueError(f"lattice {row} has no area: {lattice[row].tolist()}")


def check_tilt(tilt: np.ndarray | jax.Array, batch: tuple[int, ...]) -> None:
    """Check the shape and, where the tilt is known, that the beam meets the layer's upper side."""
    if tilt.shape not in ((2,), (*batch, 2)):
        each = f" or {(*batch, 2)}, one for each crystal" if batch else ""
        raise ValueError(f"tilt must have the shape (2,){each}; got {tilt.shape}")
    if not isinstance(tilt, jax.core.Tracer):
        cosine = np.cos(np.deg2rad(np.asarray(tilt, float))).prod(-1)
        if not (cosine > 1e-3).all():
            raise ValueError(
                f"tilt must leave the layer's upper side to the beam, less than 90 degrees off; "
                f"got {np.asarray(tilt).tolist()}. Turn the crystal over for its other side"
            )


def check_concrete(radiation: Radiation, crystal: Crystal) -> None:
    """Check the positions' type and, where the numbers are known, that all are tabulated."""
    if not jnp.issubdtype(crystal.positions.dtype, jnp.floating):
        raise ValueError(f"positions must be floating point, got {crystal.positions.dtype}")
    if not isinstance(crystal.numbers, jax.core.Tracer):
        check_tabulated(radiation, np.asarray(crystal.numbers))
        _check_occupancy(crystal)


def _check_occupancy(crystal: Crystal) -> None:
    if crystal.occupancy is None or isinstance(crystal.occupancy, jax.core.Tracer):
        return
    occupancy = np.asarray(crystal.occupancy)
    wrong = (np.asarray(crystal.numbers) > 0) & ~((occupancy >= 0) & (occupancy <= 1))
    if wrong.any():
        row = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = row[0] if len(row) == 1 else row
        raise ValueError(f"occupancies must lie in 0 to 1; atom {where} has {occupancy[row]:g}")


def check_reach(
    radiation: Radiation,
    q_max: float,
    tilt: tuple[float, float] | np.ndarray,
    rods: np.ndarray | None = None,
) -> None:
    """Raise ValueError where spots lie beyond what the form factors were fitted to.

    A spot's |q| is larger than its rod's, most so uphill under tilt. What is traced is not checked.

    Args:
        radiation: electrons or X-rays.
        q_max: of the rods, 1/angstrom.
        tilt: degrees, (2,) or (..., 2).
        rods: (..., K, 2) the rods within q_max, 1/angstrom; None: there may be rods anywhere.
    """
    check_range(radiation, q_max, "q_max")
    if any(isinstance(x, jax.core.Tracer) for x in (radiation.wavelength, tilt)):
        return
    normal = np.asarray(tilt_matrix(np.asarray(tilt, float)), float)[..., 2, :]
    k = 1 / np.asarray(radiation.wavelength, float)[..., None]

    def longest(flat: np.ndarray, along: np.ndarray) -> float:
        """Of the spots on rods of the lengths `flat` (..., K), `along` of it up the slope."""
        linear = k * normal[..., 2:]
        constant = flat**2 - 2 * k * along
        reached = linear**2 > constant
        root = np.sqrt(np.where(reached, linear**2 - constant, 1.0))
        squared = flat**2 + (np.where(reached, constant, 0.0) / (np.abs(linear) + root)) ** 2
        return float(np.sqrt(np.max(np.where(reached, squared, 0.0))))

    # Straight up the slope; not the edge alone, which long waves' spheres do not reach.
    flat = np.linspace(0, q_max, 65)
    length = longest(flat, flat * np.linalg.norm(normal[..., :2], axis=-1)[..., None])
    if length > form_factor_range(radiation) and rods is not None:
        flat = np.linalg.norm(rods, axis=-1)
        flat = np.where(flat <= q_max * _EDGE, flat, 0.0)
        along = np.einsum("...kd,...d->...k", rods, normal[..., :2])
        length = longest(flat, np.where(flat > 0, along, 0.0))
    check_range(radiation, length, "under this tilt the largest |q|")


def _check_q_max(q_max: float) -> None:
    if not 0 < q_max < np.inf:
        raise ValueError(f"q_max must be positive, in 1/angstrom, got {q_max}")
