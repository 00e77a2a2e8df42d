"""Multislice: dynamical diffraction of 2D crystals by fast electrons, in JAX."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.crystal import Crystal, reciprocal
from diffraction.form_factors import coefficients, form_factor
from diffraction.heat import gaussians, heat
from diffraction.kinematic import b_values, ewald_qz, kinematic_pattern, tilt_matrix
from diffraction.pattern import Pattern
from diffraction.radiation import _REST_ENERGY, Electrons, Radiation

BAND = 8.0
"""1/angstrom; the potential and the wave keep |g| up to here."""

KINEMATIC_LIMIT = 0.04
"""R factor above which strong spots are off by more than 10 % as a rule, see `kinematic_error`."""

# An atom is three sheets: the projections of its core, |z| < _CORE, and of what is above and below
# it, put at +-_SHELL (angstrom). One sheet alone is off by 1 % (Mo, W), these by 0.2 %.
_CORE, _SHELL = 0.15, 0.4
# `kinematic_error` cuts off at this / sqrt(B), 1/angstrom.
_COARSE = 1.77


class KinematicWarning(UserWarning):
    """Kinematic intensities of a crystal that scatters electrons more than once."""


def multislice(
    crystal: Crystal,
    radiation: Radiation = Electrons(80.0),  # noqa: B008  (frozen)
    q_max: float = 1.25,
    b_iso: float | jax.Array | Mapping[str, float] = 0.0,
    tilt: tuple[float, float] | jax.Array = (0.0, 0.0),
    hk: np.ndarray | jax.Array | None = None,
    band: float = BAND,
    grid: tuple[int, int] | None = None,
) -> Pattern:
    """The dynamical diffraction pattern of a 2D crystal or a batch of them, for electrons.

    The wave psi = sum_g psi_g exp(2 pi i (g + k_par) . r) passes the atoms one after the other
    at their exact heights; there is no slice thickness. An atom is three sheets. A sheet multiplies
    psi by exp(i gamma lambda v / cos(tilt)), v its potential projected along the beam; dz of free
    space multiply psi_g by exp(-2 pi i dz q_z(g)), q_z that of the exact Ewald sphere, `ewald_qz`.
    A tilt is a tilted beam on the same crystal. Where potentials are weak this gives the kinematic
    pattern of `simulate` at any tilt, but with f(|q|) at the part of q across the beam: alone that
    is an R factor of 1 % at 20 degrees, 3 % at 45 and 5 % at 60 for graphene.

    Atoms in motion multiply psi by the mean over their places, independently of each other: this is
    the mean wave of many frozen phonons. What it lacks is scattered between the spots. See `heat`.

    Intensities are the diffracted fractions of the beam times (A cos(tilt) / (gamma lambda))^2, A
    the cell's area: angstrom^2, |F|^2 where kinematic theory holds. An atom that is there in some
    cells only counts with its mean potential.

    Accuracy of the strongest ten spots: `band` = 8 is converged within 0.1 % where B >= 0.4.
    Without any heat the potential has cusps: B = 0 is within 2 % of abTEM's thin slices for eight
    crystals from graphene to six layers of MoS2, and within 1 % with `band` = 12. Of four layers in
    motion, from MoS2 to PbI2, it is within 3 % of abTEM's frozen phonons.

    Args:
        crystal: batch axes (...).
        radiation: `Electrons`; one energy, or one for each crystal.
        q_max: rods with in-plane |q_par| <= q_max are kept, 1/angstrom; less than `band`.
        b_iso: B in angstrom^2; a number, (...), (..., N), or by element, as in `simulate`.
        tilt: degrees, (2,) or (..., 2), as in `simulate`. Tested against abTEM at 2 degrees.
        hk: (..., K, 2) rods from `reflections`; needed where the lattice is traced.
        band: the potential and the wave keep |g| up to here, 1/angstrom.
        grid: points along a1 and a2, from `multislice_grid`, the same for the batch; needed where
            the lattice is traced. More points than that change little but the time.

    Returns:
        Pattern with batch axes (...), as from `simulate`. Derivatives with respect to heights are
        one-sided where sheets of two atoms meet.

    Raises:
        ValueError: X-rays, `q_max` not below `band`, a grid too small for `band`, a traced lattice
            without `hk` and `grid`, and what `simulate` raises.

    Source: Cowley and Moodie, Acta Cryst. 10, 609 (1957); Kirkland, Advanced Computing in Electron
    Microscopy, chapter 6.
    """
    if not isinstance(radiation, Electrons):
        raise ValueError(
            f"multislice is for electrons, got {radiation}; X-rays scatter kinematically: simulate"
        )
    known = not any(isinstance(x, jax.core.Tracer) for x in (q_max, band))
    if known and not q_max < band:
        raise ValueError(f"q_max = {q_max} must be less than band = {band}, in 1/angstrom")
    if not isinstance(crystal.lattice, jax.core.Tracer):
        least = multislice_grid(crystal.lattice, band)
        grid = least if grid is None else tuple(grid)
        if min(np.subtract(grid, least)) < 0:
            raise ValueError(f"a grid of {grid} is too small for band = {band}: {least} is needed")
    elif grid is None:
        raise ValueError(
            "the lattice is traced: pass grid=multislice_grid(lattice), made outside of the "
            "transformation, as hk=reflections(lattice, q_max)"
        )
    grid = tuple(int(n) for n in grid)
    pattern = kinematic_pattern(crystal, radiation, q_max, b_iso, tilt, hk)
    b_iso, tilt = b_values(b_iso, crystal.numbers), jnp.asarray(tilt, float)
    intensity = beam_intensities(crystal, radiation, b_iso, tilt, pattern.hk, band, grid)
    return dataclasses.replace(pattern, intensity=jnp.where(pattern.mask, intensity, 0.0))


def multislice_grid(lattice: np.ndarray, band: float = BAND) -> tuple[int, int]:
    """Points along a1 and a2 that hold all |g| <= band, for a lattice or a batch of them.

    Args:
        lattice: (..., 2, 2) concrete, in angstrom.
        band: 1/angstrom.

    Returns:
        Even numbers without prime factors over 5.
    """
    lengths = np.linalg.norm(np.asarray(lattice, float).reshape(-1, 2, 2), axis=-1).max(0)
    return tuple(_even_and_smooth(2 * int(np.floor(band * a)) + 2) for a in lengths)


def kinematic_error(
    crystal: Crystal,
    radiation: Electrons = Electrons(80.0),  # noqa: B008  (frozen)
    q_max: float = 1.25,
    b_iso: float | jax.Array | Mapping[str, float] = 0.5,
    tilt: tuple[float, float] | jax.Array = (0.0, 0.0),
) -> jax.Array:
    """How far the kinematic pattern is from the dynamical one, as an R factor.

    R = sum |I - s I_kin| / sum I with s = sum I / sum I_kin: the scale, which no measurement
    knows, is free. I is from a `multislice` as coarse as B allows (2 ms a crystal where B is
    0.5 A^2 or more; 14 ms without heat, where potentials are sharp). Beyond some 30 degrees of
    tilt its own approximation is a part of R, see there.

    Measured by `benchmarks/kinematic_error.py` on 60 crystals of C2DB of all thicknesses and
    elements (80 kV, q_max = 1.25): at B = 0, 0.5 and 1 A^2 all are within 20 % (of R) of the fine
    multislice, and none is on the wrong side of `KINEMATIC_LIMIT` by more than a factor 1.5. Above
    this limit, 4 %, the worst of the ten strongest spots is off by more than 10 % in half of the
    patterns, below in none.

    Args:
        crystal: batch axes (...), concrete. The memory grows with the batch.
        radiation: as in `multislice`, and so are the others.
        q_max: 1/angstrom.
        b_iso: angstrom^2; R hardly depends on it.
        tilt: degrees.

    Returns:
        (...); NaN where there is no intensity.

    Raises:
        ValueError: as `multislice`.
    """
    band = coarse_band(q_max, b_values(b_iso, crystal.numbers), crystal.numbers)
    true = multislice(crystal, radiation, q_max, b_iso, tilt, band=band).intensity
    kinematic = kinematic_pattern(crystal, radiation, q_max, b_iso, tilt).intensity
    total = jnp.sum(true, -1)
    scale = total / jnp.sum(kinematic, -1)
    return jnp.sum(jnp.abs(true - scale[..., None] * kinematic), -1) / total


def coarse_band(q_max: float, b_iso: float | jax.Array, numbers: jax.Array) -> float:
    """The `band` that an R factor within 20 % needs: to where exp(-B g^2 / 4) is a half or less.

    Args:
        q_max: 1/angstrom.
        b_iso: angstrom^2; a number, (...) or (..., N).
        numbers: (..., N).
    """
    if isinstance(b_iso, jax.core.Tracer):
        least = 0.0
    else:
        b = np.asarray(b_iso, float)
        least = b[np.asarray(numbers) > 0].min() if b.shape == numbers.shape else b.min()
    sharp = min(BAND, _COARSE / np.sqrt(max(least, 1e-6)))
    return max(2 * max(q_max, 1.25), sharp)


def warn_kinematic(
    crystal: Crystal,
    radiation: Radiation = Electrons(80.0),  # noqa: B008  (frozen)
    q_max: float = 1.25,
    b_iso: float | jax.Array | Mapping[str, float] = 0.5,
    tilt: tuple[float, float] | jax.Array = (0.0, 0.0),
) -> None:
    """Give a `KinematicWarning` where `kinematic_error` is above `KINEMATIC_LIMIT`.

    X-rays give none: a layer scatters them kinematically. Arguments as in `kinematic_error`.
    """
    if not isinstance(radiation, Electrons):
        return
    error = np.nan_to_num(np.ravel(kinematic_error(crystal, radiation, q_max, b_iso, tilt)))
    above = error > KINEMATIC_LIMIT
    if above.any():
        which = f"of {above.sum()} of {len(error)} crystals are" if len(error) > 1 else "are"
        warnings.warn(
            f"kinematic intensities {which} off by up to {100 * error.max():.0f} % (R factor): "
            "multiple scattering matters here; use simulate(..., method='multislice')",
            KinematicWarning,
            stacklevel=2,
        )


def _even_and_smooth(least: int) -> int:
    size = least
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and size % 2 == 0:
            return size
        size += 1


@functools.partial(jax.jit, static_argnames=("grid", "thin"))
def beam_intensities(
    crystal: Crystal,
    radiation: Electrons,
    b_iso: jax.Array,
    tilt: jax.Array,
    hk: jax.Array,
    band: float,
    grid: tuple[int, int],
    thin: bool = False,
) -> jax.Array:
    """Intensities (..., K) of the beams hk (..., K, 2), the direct one's too, as `multislice` gives
    them but unchecked: crystal, b_iso and tilt (..., 2) of like batch axes, `grid` large enough.
    `thin`: an atom is one sheet, which is off by 1 % and takes a third of the time; padding takes
    none, and there are no derivatives in reverse mode."""
    batch, dtype = crystal.numbers.shape[:-1], crystal.positions.dtype
    b_iso = jnp.asarray(b_iso, dtype)
    if b_iso.ndim < crystal.numbers.ndim:
        b_iso = b_iso[..., None]

    # Of all crystals, so that one program runs for any number of atoms.
    atoms = jnp.max(jnp.sum(crystal.numbers > 0, -1)) if thin else None

    def one(crystal, energy, b_iso, tilt, hk):
        beam = dataclasses.replace(radiation, energy=energy)
        strength = interaction(beam, tilt, dtype) / _area(crystal.lattice)
        wave = exit_wave(crystal, beam, b_iso, tilt, strength, band, grid, atoms)
        amplitude = wave[hk[:, 0], hk[:, 1]]
        return (jnp.real(amplitude) ** 2 + jnp.imag(amplitude) ** 2) / strength**2

    for _ in batch:
        one = jax.vmap(one)
    return one(
        crystal,
        jnp.broadcast_to(jnp.asarray(radiation.energy, dtype), batch),
        jnp.broadcast_to(b_iso, crystal.numbers.shape),
        jnp.broadcast_to(tilt.astype(dtype), (*batch, 2)),
        hk,
    )


@functools.partial(jax.jit, static_argnames="grid")
def scattering_matrix(
    crystal: Crystal,
    radiation: Electrons,
    b_iso: jax.Array,
    beams: jax.Array,
    band: float,
    grid: tuple[int, int],
) -> jax.Array:
    """What a layer makes of each of M beams, from its first atom to its last, untilted.

    Layers on each other multiply: a flake's wave is a product of these and of phases.

    Args:
        crystal: one, without batch axes.
        radiation: one energy.
        b_iso: angstrom^2, a number.
        beams: (M, 2) h and k; those behind the last that count may be padded with any.
        band, grid: see `multislice`.

    Returns:
        (M, M) complex amplitudes, at [i, j] of beam i if beam j comes in with one. Atoms are thin
        sheets.
    """
    dtype = crystal.positions.dtype
    tilt = jnp.zeros(2, dtype)
    strength = interaction(radiation, tilt, dtype) / _area(crystal.lattice)
    atoms = jnp.sum(crystal.numbers > 0)
    b_iso = jnp.broadcast_to(jnp.asarray(b_iso, dtype), crystal.numbers.shape)
    one = jnp.zeros(grid, jnp.result_type(dtype, jnp.complex64))

    def column(beam):
        incident = one.at[beam[0], beam[1]].set(1.0)
        wave = exit_wave(
            crystal, radiation, b_iso, tilt, strength, band, grid, atoms, incident
        )
        return wave[beams[:, 0], beams[:, 1]]

    return jax.vmap(column, out_axes=1)(beams)


def interaction(radiation: Electrons, tilt: jax.Array, dtype=jnp.float32) -> jax.Array:
    """gamma lambda / cos(tilt): phase in radians for 1/angstrom of projected potential.

    The unit is that of f_e: 2 pi m e V / h^2 in 1/angstrom^2, times angstrom along the beam.
    """
    gamma = 1 + radiation.energy / _REST_ENERGY
    return jnp.asarray(gamma * radiation.wavelength, dtype) / tilt_matrix(tilt, dtype)[2, 2]


def _area(lattice: jax.Array) -> jax.Array:
    return jnp.abs(lattice[0, 0] * lattice[1, 1] - lattice[0, 1] * lattice[1, 0])


def exit_wave(
    crystal: Crystal,
    radiation: Electrons,
    b_iso: jax.Array,
    tilt: jax.Array,
    strength: jax.Array,
    band: float,
    grid: tuple[int, int],
    thin: jax.Array | None = None,
    incident: jax.Array | None = None,
) -> jax.Array:
    """Amplitudes of the beams (h, k) behind one crystal, at [h, k].

    The beam runs against z, so that the atoms highest in z come first.

    Args:
        crystal: without batch axes.
        radiation: one energy.
        b_iso: (N,) angstrom^2.
        tilt: (2,) degrees.
        strength: phase that a scattering amplitude of 1 angstrom makes, `interaction` / area.
        band, grid: see `multislice`.
        thin: an atom is one sheet, and there are so many at most; None: it is three.
        incident: `grid`, amplitudes before the first atom; None: the beam (0, 0) has one.

    Returns:
        `grid`, complex.
    """
    dtype = crystal.positions.dtype
    rows = reciprocal(crystal.lattice)
    h, k = (jnp.fft.fftfreq(n, 1 / n).astype(dtype) for n in grid)
    g = h[:, None, None] * rows[0] + k[:, None] * rows[1]
    qz = ewald_qz(g, radiation.wavelength, tilt)
    inside = jnp.sum(g * g, -1) <= band**2
    kept = inside & jnp.isfinite(qz)
    qz = jnp.where(kept, qz, 0.0)

    normal = tilt_matrix(tilt, dtype)[2]
    slope = normal[:2] / normal[2]  # of the beam
    # The phase is real: half of its transform will do. Its q lie across the beam.
    half = grid[1] // 2 + 1
    along = -jnp.sum(g[:, :half] * slope, -1, keepdims=True)
    q = jnp.concatenate([g[:, :half], along], -1)
    q_squared = jnp.sum(q * q, -1)
    shapes = gaussians(q_squared)
    alone = strength * _area(crystal.lattice)
    sheets = _sheets(crystal, radiation, b_iso, slope, rows, alone, thin is not None)
    strength = jnp.where(inside[:, :half], strength * (grid[0] * grid[1]), 0.0)

    def pass_sheet(wave, sheet):
        way, place, number, share, u, core, warm = sheet
        if thin is not None:
            f = form_factor(radiation, number, q_squared)
        else:
            f = _sheet(radiation, number, q_squared, core)
        square = jnp.einsum("abi,ij,abj->ab", q, u, q, precision="highest")
        f = f * jnp.exp(-2 * jnp.pi**2 * square)
        added, lost = jnp.einsum("ck,kab->cab", warm, shapes, precision="highest")
        turns = turn(h * place[0])[:, None] * turn(k[:half] * place[1])
        both = share * strength * turns * jnp.stack([f + added, lost])
        phase, lost = jnp.fft.irfft2(both, grid)
        through = jnp.exp(-lost) * jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        wave = jnp.where(kept, wave * turn(way * qz), 0.0)
        return jnp.fft.fft2(jnp.fft.ifft2(wave) * through), None

    first = incident
    if first is None:
        first = jnp.zeros(grid, jnp.result_type(dtype, jnp.complex64)).at[0, 0].set(1.0)
    if thin is not None:
        return jax.lax.fori_loop(
            0, thin, lambda i, wave: pass_sheet(wave, [x[i] for x in sheets])[0], first
        )
    # On the way back the sheets are recomputed, so that only the waves between them are stored.
    step = jax.checkpoint(pass_sheet, prevent_cse=False)  # a scan needs no guard against CSE
    return jax.lax.scan(step, first, sheets)[0]


def _sheets(crystal, radiation, b_iso, slope, rows, strength, thin) -> tuple[jax.Array, ...]:
    """What the wave meets, in this order, 3 N of each or N thin ones: the way there, place in
    fractions of the cell, number, occupancy, U with B in it, whether it is a core, and what `heat`
    says, all of it at the core.

    Padding scatters nothing, and comes last.
    """
    numbers, positions = crystal.numbers, crystal.positions
    dtype, present = positions.dtype, numbers > 0
    shift = jnp.array([0.0] if thin else [_SHELL, 0.0, -_SHELL], dtype)
    lowest = jnp.min(jnp.where(present, positions[:, 2], 0.0))
    heights = (jnp.where(present, positions[:, 2], lowest - 2 * _SHELL)[:, None] + shift).ravel()
    order = jnp.argsort(-heights)
    heights = heights[order]
    # What is above the atom lies further up the same ray.
    places = (positions[:, None, :2] + shift[:, None] * slope).reshape(-1, 2)
    places = jnp.einsum("nd,ed->ne", places, rows, precision="highest")
    u = jnp.where(present, b_iso / (8 * jnp.pi**2), 0.0)[:, None, None] * jnp.eye(3, dtype=dtype)
    if crystal.u is not None:
        u = u + jnp.where(present[:, None, None], crystal.u, 0.0)
    share = present.astype(dtype)
    if crystal.occupancy is not None:
        share = jnp.where(present, crystal.occupancy, 0.0)
    warm = heat(radiation, numbers, (u[:, 0, 0] + u[:, 1, 1]) / 2, strength)
    number, share, u, warm = (
        jnp.repeat(x, len(shift), 0)[order] for x in (numbers, share, u, warm)
    )
    core = (jnp.arange(order.size) % len(shift) == len(shift) // 2)[order]
    return (
        jnp.append(jnp.zeros(1, dtype), heights[:-1] - heights[1:]),
        (places - jnp.round(places))[order],
        number, share, u, core, jnp.where(core[:, None, None], warm, 0.0),
    )  # fmt: skip


def _sheet(radiation, number, q_squared, core) -> jax.Array:
    """The part of f_e(q) in the core's sheet or in one of the two others; q across the beam.

    Along the beam the potential has the transform of f(sqrt(q^2 + p^2)) from p to z: pi exp(-w) /
    sqrt(u) for 1 / (u + p^2), pi (1 + w) exp(-w) / (2 sqrt(u)^3) for 1 / (u + p^2)^2 with w =
    2 pi sqrt(u) |z|, and a Gaussian for a Gaussian. Here they are integrated over the core.
    """
    c = jnp.asarray(coefficients(radiation), q_squared.dtype)[number][:, None, None]
    f = form_factor(radiation, number, q_squared)
    if radiation.table == "lobato":
        a, b = c[:5], c[5:]
        u = 1 + b * q_squared
        w = 2 * jnp.pi * _CORE * jnp.sqrt(u / b)
        half_core = a * ((1 - jnp.exp(-w)) / (2 * u) + (2 - (2 + w) * jnp.exp(-w)) / (4 * u**2))
    elif radiation.table == "kirkland":
        u = q_squared + c[1:6:2]
        lorentzians = c[0:6:2] * (1 - jnp.exp(-2 * jnp.pi * _CORE * jnp.sqrt(u))) / (2 * u)
        half_core = jnp.concatenate([lorentzians, _half_core(c[6::2], c[7::2], q_squared)])
    else:
        half_core = _half_core(c[:5], c[5:] / 4, q_squared)
    half_core = jnp.sum(half_core, 0)
    return jnp.where(core, 2 * half_core, f / 2 - half_core)


def _half_core(a, b, q_squared) -> jax.Array:
    """The upper half of the core of Gaussians a exp(-b q^2)."""
    return a * jnp.exp(-b * q_squared) * jax.lax.erf(jnp.pi * _CORE / jnp.sqrt(b)) / 2


def turn(turns: jax.Array) -> jax.Array:
    """exp(-2 pi i turns)."""
    angle = 2 * jnp.pi * (turns - jnp.round(turns))
    return jax.lax.complex(jnp.cos(angle), -jnp.sin(angle))
