"""From an image of a diffraction pattern to the pattern, with every step on the way kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.images.distortion import Mapping, from_lattice
from dd2d_jax.images.readers import Image, read_image
from dd2d_jax.images.spot_finding import SpotList, find_spots
from dd2d_jax.util.errors import PatternError

if TYPE_CHECKING:
    from dd2d_jax.images.calibration import Calibration


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
    **finding: Any,
) -> Measured:
    """Find the spots of an image and put them into 1/angstrom.

    Args:
        image: a file or what was read from one.
        scale: 1/angstrom per pixel; None takes that of the calibration, or else of the file.
        centre: column and row of the central beam in pixels; None takes the pattern's centre of
            symmetry.
        calibration: of the same camera length, from `calibrate`, or its JSON file.
        undistort: fit ellipticity and radial distortion to the pattern's own lattice, see
            `distortion.from_lattice`.
        finding: mask, width, threshold, max_radius and beam_stop as in `image.find_spots`.

    Raises:
        PatternError: what is wrong, in one line that begins with the file's name.
    """
    where = "" if isinstance(image, Image) else f"{image}: "
    if not isinstance(image, Image):
        image = read_image(image)
    mapping = _mapping(image, scale, calibration, where)
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
    )
    return Measured(image, spots, mapping, pattern)


def _mapping(
    image: Image, scale: float | None, calibration: Calibration | str | Path | None, where: str
) -> Mapping:
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
        if scale is None:
            return calibration.mapping
        return dataclasses.replace(calibration.mapping, scale=scale)
    if scale is not None:
        return Mapping(scale)
    if image.scale is None:
        raise PatternError(
            f"{where}an image needs its scale in 1/angstrom per pixel, and the file does not say "
            "it: give scale= (--scale), or calibration= (--calibration) of a ring pattern at the "
            "same camera length, made by dd2d calibrate"
        )
    if np.ptp(image.scale) < 1e-6 * image.scale[0]:
        return Mapping(float(image.scale[0]))
    return Mapping(image.scale)
