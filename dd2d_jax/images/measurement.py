"""From an image of a diffraction pattern to the pattern, with every step on the way kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.images.distortion import Mapping, from_lattice
from dd2d_jax.images.image import Image, checked_energy
from dd2d_jax.images.readers import read_image
from dd2d_jax.images.spot_finding import SpotList, find_spots
from dd2d_jax.util.errors import PatternError

if TYPE_CHECKING:
    from dd2d_jax.images.calibration import Calibration

# Scales that differ by more than this contradict each other, in logarithms.
_CONTRADICTS = 0.03
# Half the longer side of usual images lies between these, 1/angstrom.
_NEAREST, _FARTHEST = 0.2, 6.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """A pattern and the image that it was measured in.

    Attributes:
        image: with the file's scale and energy.
        spots: in pixels.
        mapping: from pixels to 1/angstrom.
        pattern: q in 1/angstrom, q_y up; intensities and their uncertainties in counts.
    """

    image: Image
    spots: SpotList
    mapping: Mapping
    pattern: dx.Pattern


def measure(
    image: str | Path | Image,
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
    calibration: Calibration | str | Path | None = None,
    undistort: bool = False,
    energy: float | None = None,
    **finding: Any,
) -> Measured:
    """Find the spots of an image and put them into 1/angstrom.

    Args:
        image: a file or what was read from one.
        scale: 1/angstrom per pixel; None takes that of the calibration, or else of the file.
        centre: column and row of the central beam in pixels; None takes the file's, or else the
            pattern's centre of symmetry.
        calibration: of the same camera length, from `calibrate`, or its JSON file.
        undistort: fit ellipticity and radial distortion to the pattern's own lattice, see
            `distortion.from_lattice`.
        energy: of the electrons, keV; None takes the file's.
        finding: mask, width, threshold, max_radius and beam_stop as in `image.find_spots`.

    Raises:
        PatternError: what is wrong, in one line that begins with the file's name.
    """
    where = "" if isinstance(image, Image) else f"{image}: "
    if not isinstance(image, Image):
        image = read_image(image)
    energy = checked_energy(image.energy if energy is None else energy)
    mapping, notes = _mapping(image, scale, calibration, where, energy)
    image = dataclasses.replace(image, energy=energy, notes=(*image.notes, *notes))
    if centre is None and image.centre is not None:
        centre = tuple(image.centre)
    try:
        spots = find_spots(image.pixels, centre, **finding)
        if undistort:
            offset = spots.position - spots.centre
            mapping, shift = from_lattice(mapping, offset, spots.intensity)
            spots = dataclasses.replace(spots, centre=spots.centre + shift)
    except PatternError as error:
        raise PatternError(f"{where}{error}") from error
    q = mapping.q(spots.position - spots.centre)
    pattern = dx.Pattern(
        jnp.asarray(q, jnp.float32),
        jnp.asarray(spots.intensity, jnp.float32),
        jnp.zeros(q.shape, jnp.int32),
        jnp.ones(len(q), bool),
        jnp.asarray(spots.sigma, jnp.float32),
        energy,
    )
    return Measured(image, spots, mapping, pattern)


def _mapping(
    image: Image,
    scale: float | None,
    calibration: Calibration | str | Path | None,
    where: str,
    energy: float | None,
) -> tuple[Mapping, tuple[str, ...]]:
    """How pixels become 1/angstrom, and what the user should know of the scale."""
    own = image.scale_at(energy)
    if calibration is not None:
        from dd2d_jax.images.calibration import Calibration

        if not isinstance(calibration, Calibration):
            calibration = Calibration.load(calibration)
        if tuple(calibration.shape) != image.pixels.shape:
            ours, theirs = (
                f"{shape[0]} x {shape[1]}" for shape in (image.pixels.shape, calibration.shape)
            )
            raise PatternError(
                f"{where}{ours} pixels, but the calibration is of an image of {theirs}; bin and "
                "crop both alike"
            )
        mapping = calibration.mapping
        if scale is not None:
            mapping = dataclasses.replace(mapping, scale=scale)
        name = "calibration's" if scale is None else "one that was given"
        return mapping, _doubts(mapping, own, name, image.pixels.shape, where)
    if scale is not None:
        mapping = Mapping(scale)
        return mapping, _doubts(mapping, own, "one that was given", image.pixels.shape, where)
    if own is None and image.angle is not None:
        raise PatternError(
            f"{where}the file gives its scale in angles: give energy= (--energy) in keV, too"
        )
    if own is None:
        raise PatternError(
            f"{where}an image needs its scale in 1/angstrom per pixel, and the file does not say "
            "it: give scale= (--scale), or calibration= (--calibration) of a ring pattern at the "
            "same camera length, made by dd2d calibrate"
        )
    mapping = Mapping(float(own[0]) if np.ptp(own) < 1e-6 * own[0] else own)
    return mapping, _doubts(mapping, None, "file's", image.pixels.shape, where)


def _doubts(
    mapping: Mapping, own: np.ndarray | None, name: str, shape: tuple[int, ...], where: str
) -> tuple[str, ...]:
    """Lines about a scale that is not the file's `own`, or hardly one in 1/angstrom."""
    notes, scale = [], float(np.mean(mapping.scale))
    if own is not None and abs(np.log(scale / own.mean())) > _CONTRADICTS:
        ratio = scale / own.mean()
        notes.append(
            f"{where}the file says {own.mean():.4g} 1/A per pixel, but the {name} is {scale:.4g} "
            f"({ratio:.3g} times as much): the {name} counts"
        )
    reach = scale * max(shape) / 2
    if reach > _FARTHEST:
        notes.append(
            f"{where}at {scale:.4g} 1/A per pixel the image reaches {reach:.3g} 1/A, farther than "
            f"patterns do; if the scale is in 1/nm give {scale / 10:.4g}, if it holds 2 pi "
            f"{scale / 2 / np.pi:.4g}"
        )
    elif reach < _NEAREST:
        notes.append(
            f"{where}at {scale:.4g} 1/A per pixel the image reaches {reach:.3g} 1/A only; is the "
            "scale in 1/angstrom per pixel?"
        )
    return tuple(notes)
