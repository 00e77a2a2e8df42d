"""The compiled inner loop of `simulate_library`: rods and Friedel pairs once, in parts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.crystal import reciprocal
from diffraction.form_factors import form_factor
from diffraction.kinematic import small_root, tilt_matrix, xray_factor
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Radiation

# Atoms, or values of h, that one turn of a loop adds.
UNROLL = 4
# sin(pi x) / x and cos(pi x) in powers of x^2, |x| <= 1/2, to 2e-7 in float32 (least squares at
# Chebyshev nodes).
_SIN = (3.1415927410125732, -5.167710304260254, 2.550077438354492, -0.598291277885437,
        0.07765766233205795)  # fmt: skip
_COS = (1.0, -4.934802055358887, 4.058709144592285, -1.335211992263794, 0.23493731021881104,
        -0.024396324530243874)  # fmt: skip



@functools.cache
def compiled() -> Callable[..., Pattern]:
    """`_kernel`, jitted for the device that there is."""
    cpu = jax.default_backend() == "cpu"
    return jax.jit(
        _kernel,
        static_argnames=("with_occupancy", "with_u", "pairs", "species"),
        # Where a CPU has them, vectors of 512 bits make the loop about a third faster.
        compiler_options={"xla_cpu_prefer_vector_width": 512} if cpu else None,
    )


def _kernel(
    radiation: Radiation,
    cells: jax.Array,
    values: jax.Array,
    integers: jax.Array,
    turns: jax.Array,
    with_occupancy: bool,
    with_u: bool,
    pairs: int,
    species: int,
) -> Pattern:
    """Patterns of M crystals as `_pack` lays them out; `turns` are not part of the shape."""
    dtype, slots = values.dtype, len(values)
    numbers, runs, count = integers[:slots], integers[slots:-1], integers[-1]
    lattice, b_iso, tilt = cells[:4].T.reshape(-1, 2, 2), cells[4], cells[5:].T
    h, k, mask = _spread(*jnp.split(runs, 2), count, turns[0], pairs)
    hd, kd = h.astype(dtype), k.astype(dtype)
    b = reciprocal(lattice)[..., None]
    qx, qy = hd * b[:, 0, 0] + kd * b[:, 1, 0], hd * b[:, 0, 1] + kd * b[:, 1, 1]
    wavelength = jnp.asarray(radiation.wavelength, dtype)
    rotation = tilt_matrix(tilt, dtype)[..., None]
    sides = [_cut(qx, qy, mask, wavelength, rotation), _cut(-qx, -qy, mask, wavelength, rotation)]

    elements = _elements(numbers, species)

    def amplitudes(squared: jax.Array) -> jax.Array:
        damping = jnp.exp(-b_iso[:, None] * squared / 4)
        return damping * form_factor(radiation, elements, squared)

    up = amplitudes(sides[0].squared)
    # Friedel pairs have one |q| unless the crystal is tilted.
    down = jax.lax.cond(jnp.any(tilt != 0), amplitudes, lambda _: up, sides[1].squared)
    # Without the barrier they would be computed again in each turn.
    up, down, hd, kd, qx, qy, qz = jax.lax.optimization_barrier(
        (up, down, hd, kd, qx, qy, [side.qz for side in sides])
    )

    def add(turn: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start = turn * UNROLL
        parts = [(jnp.real(s), jnp.imag(s)) for s in sums]
        some = jax.lax.dynamic_slice_in_dim(values, start, UNROLL)[..., None]
        these = jax.lax.dynamic_slice_in_dim(numbers, start, UNROLL)[..., None]
        for atom, number in zip(some, these, strict=True):
            z, x, x_rest, y, y_rest, *more = atom
            share = [((number == e) & (number > 0)).astype(dtype) for e in elements]
            if with_occupancy:
                share = [more[0] * s for s in share]
            in_plane = hd * x + kd * y
            in_plane = in_plane - jnp.round(in_plane) + (hd * x_rest + kd * y_rest)
            for side, (sign, f) in enumerate(((1, up), (-1, down))):
                amplitude = sum(s * g for s, g in zip(share, f, strict=True))
                if with_u:
                    amplitude *= _displaced(sign * qx, sign * qy, qz[side], more[-6:])
                sine, cosine = _sincos(qz[side] * z + sign * in_plane)
                re, im = parts[side]
                parts[side] = re + amplitude * cosine, im + amplitude * sine
        # Complex sums make one loop of both parts: on a CPU, XLA computes the phases twice else.
        return tuple(jax.lax.complex(*part) for part in parts)

    nothing = jax.lax.complex(jnp.zeros_like(qx), jnp.zeros_like(qx))
    factors = jax.lax.fori_loop(0, turns[1], add, (nothing, nothing))
    halves = [
        _spots(side, sign * h, sign * k, jnp.real(f) ** 2 + jnp.imag(f) ** 2, radiation)
        for side, sign, f in zip(sides, (1, -1), factors, strict=True)
    ]
    # Joined as they are, not computed again by halves of an index.
    halves = jax.lax.optimization_barrier(halves)
    return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *halves)


def _elements(numbers: jax.Array, species: int) -> jax.Array:
    """Atomic numbers (S, M, 1) of each crystal, the highest first, of those of its atoms (N, M)."""
    elements, below = [], jnp.full(numbers.shape[1:], 1000)
    for _ in range(species):
        below = jnp.max(jnp.where(numbers < below, numbers, 0), 0)
        elements.append(below)
    return jnp.stack(elements)[..., None]


def _spread(
    start: jax.Array, jump: jax.Array, count: jax.Array, turns: jax.Array, pairs: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """h, k and mask (M, pairs) of the rods, see `_rods`."""
    place = jnp.arange(pairs)[None]

    def add(turn: jax.Array, hk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h, k = hk
        some = (jax.lax.dynamic_slice_in_dim(x, turn * UNROLL, UNROLL) for x in (start, jump))
        for begin, by in zip(*some, strict=True):
            on = place >= begin[:, None]
            h, k = h + on, k + jnp.where(on, by[:, None], 0)
        return h, k

    shape = (len(count), pairs)
    hk = jnp.full(shape, -1, jnp.int32), jnp.broadcast_to(place, shape)
    h, k = jax.lax.fori_loop(0, turns, add, hk)
    return h, k, place < count[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Side:
    """Where the Ewald sphere cuts rods: qz, |q|^2, across the beam, and which it reaches."""

    qz: jax.Array
    squared: jax.Array
    across: tuple[jax.Array, jax.Array]
    mask: jax.Array


def _cut(qx, qy, mask, wavelength, rotation) -> _Side:
    """As `ewald_qz`, by components."""
    r = rotation.transpose(1, 2, 0, 3)  # (3, 3, M, 1)
    linear = r[2, 2] / wavelength
    constant = qx * qx + qy * qy - 2 / wavelength * (r[2, 0] * qx + r[2, 1] * qy)
    qz = small_root(linear, constant)
    mask = mask & jnp.isfinite(qz)
    qz = jnp.where(mask, qz, 0.0)
    squared = jnp.where(mask, qx * qx + qy * qy + qz * qz, 0.0)
    across = tuple(r[i, 0] * qx + r[i, 1] * qy + r[i, 2] * qz for i in (0, 1))
    return _Side(qz, squared, across, mask)


def _displaced(qx, qy, qz, u) -> jax.Array:
    """exp(-2 pi^2 q U q) for U as xx, yy, zz, xy, xz, yz."""
    xx, yy, zz, xy, xz, yz = u
    diagonal = qx * qx * xx + qy * qy * yy + qz * qz * zz
    return jnp.exp(-2 * np.pi**2 * (diagonal + 2 * (qx * qy * xy + qz * (qx * xz + qy * yz))))


def _sincos(turns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine of 2 pi times a number of turns."""
    if turns.dtype != jnp.float32:
        angle = 2 * jnp.pi * (turns - jnp.round(turns))
        return jnp.sin(angle), jnp.cos(angle)
    # Half turns change the sign of both, which is the first bit.
    halves = jnp.round(2 * turns)
    rest = 2 * turns - halves
    flip = halves.astype(jnp.int32) << 31

    def signed(x: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(
            jax.lax.bitcast_convert_type(x, jnp.int32) ^ flip, jnp.float32
        )

    squared = rest * rest
    return signed(rest * _polynomial(_SIN, squared)), signed(_polynomial(_COS, squared))


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    out = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out = out * x + c
    return out


def _spots(side: _Side, h, k, intensity, radiation) -> Pattern:
    """One spot of each pair, what is not reached set to zero."""
    if not isinstance(radiation, Electrons):
        intensity = intensity * xray_factor(radiation, *side.across, side.squared, side.mask)
    mask = side.mask
    return Pattern(
        q=jnp.where(mask[..., None], jnp.stack(side.across, -1), 0.0),
        intensity=jnp.where(mask, intensity, 0.0),
        hk=jnp.where(mask[..., None], jnp.stack([h, k], -1), 0),
        mask=mask,
    )
