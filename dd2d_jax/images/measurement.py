"""From an image of a diffraction pattern to the pattern, with every step on the way kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.spatial import cKDTree

import diffraction as dx
from dd2d_jax.images.distortion import Mapping, from_lattice
from dd2d_jax.images.image import Image, checked_energy
from dd2d_jax.images.readers import read_image
from dd2d_jax.images.spot_finding import SpotList, find_spots
from dd2d_jax.images.weak_spots import weak_spots
from dd2d_jax.lattices import lattice, origin
from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.progress import stage

if TYPE_CHECKING:
    from dd2d_jax.images.calibration import Calibration

# Scales that differ by more than this contradict each other, in logarithms.
_CONTRADICTS = 0.03
# Half the longer side of usual images lies between these, 1/angstrom.
_NEAREST, _FARTHEST = 0.2, 6.0
# Where of more than so many spots a smaller share lies on lattices, noise looks like spots, and so
# many of the brightest are tried alone; of them a larger share must.
_MANY, _FEW, _BRIGHTEST, _MOST = 60, 0.5, (40, 20), 0.8
# Between neighbouring spots of a cell of usual size, 1/angstrom: a = 4 angstrom.
_SPACING = 0.27


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
    likely_scale: bool = False,
    spots: SpotList | None = None,
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
        likely_scale: where nothing tells the scale, take one at which the spots have a usual
            spacing, instead of an error; it may be wrong by a factor of 2.
        spots: that were found in this image before, with the same centre and options.
        finding: mask, width, threshold, max_radius, beam_stop and gamma as in `image.find_spots`.

    Raises:
        PatternError: what is wrong, in one line that begins with the file's name.
    """
    where = "" if isinstance(image, Image) else f"{image}: "
    if not isinstance(image, Image):
        image = read_image(image)
    energy = checked_energy(image.energy if energy is None else energy)
    try:
        mapping, notes = _mapping(image, scale, calibration, where, energy, likely_scale)
    except PatternError as error:
        error.step, error.seen = "scale", image
        raise
    image = dataclasses.replace(image, energy=energy, notes=(*image.notes, *notes))
    if centre is None and image.centre is not None:
        centre = tuple(image.centre)
    rows, columns = image.pixels.shape
    ours = spots is None
    try:
        if ours:
            stage(f"finding spots in {columns} x {rows} pixels")
            spots = find_spots(image.pixels, centre, **finding)
    except PatternError as error:
        seen = error.seen
        if seen is not None:
            seen = _measured(image, seen, mapping or Mapping(_likely_scale(seen)))
        raise _refused(f"{where}{error}", error.step or "spots", seen or image) from error
    image = dataclasses.replace(image, notes=(*image.notes, *_told(where, spots)))
    if mapping is None:
        mapping = Mapping(_likely_scale(spots))
        told = f"about {mapping.scale:.3g} 1/A per pixel is taken"
        note = f"{where}the scale is not known: {told}"
        image = dataclasses.replace(image, notes=(*image.notes, note))
    if undistort:
        offset = spots.position - spots.centre
        try:
            mapping, shift = from_lattice(mapping, offset, spots.intensity)
        except PatternError as error:
            seen = _measured(image, spots, mapping)
            raise _refused(f"{where}{error}", "distortion", seen) from error
        spots = dataclasses.replace(spots, centre=spots.centre + shift)
    found = _measured(image, spots, mapping)
    lattices = _lattices(found)
    if ours and len(spots.position) > _MANY and _explained(lattices, found) < _FEW:
        found, lattices = _brightest(found, where, centre, finding) or (found, lattices)
    return _as_the_lattice_says(found, lattices, centre is None)


def _told(where: str, spots: SpotList) -> tuple[str, ...]:
    return tuple(f"{where}{note}" for note in spots.notes)


def _brightest(
    every: Measured,
    where: str,
    centre: tuple[float, float] | None,
    finding: dict[str, Any],
) -> tuple[Measured, list[Indexed]] | None:
    """The brightest spots of an image alone and their lattices, where nearly all lie on these."""
    image, replaced = every.image, _told(where, every.spots)
    kept = tuple(note for note in image.notes if note not in replaced)
    for most in _BRIGHTEST:
        try:
            spots = find_spots(image.pixels, centre, brightest=most, **finding)
        except PatternError:
            continue
        noted = dataclasses.replace(image, notes=(*kept, *_told(where, spots)))
        found = _measured(noted, spots, every.mapping)
        lattices = _lattices(found)
        if _explained(lattices, found) > _MOST:
            return found, lattices
    return None


def _lattices(found: Measured) -> list[Indexed]:
    try:
        return lattice.find_all(found.pattern)
    except PatternError:
        return []


def _explained(lattices: list[Indexed], found: Measured) -> float:
    """Share of the spots that lie on any of the lattices."""
    on = [one.spots for one in lattices]
    return len(np.unique(np.concatenate(on))) / len(found.spots.position) if on else 0.0


def _as_the_lattice_says(found: Measured, lattices: list[Indexed], move: bool) -> Measured:
    """With the spots that only the lattice tells where to look for, see `weak_spots`.

    With `move` also with the centre where the lattice has its origin.
    """
    if len(lattices) != 1:  # what is left of one may belong to another
        return found
    if move:
        found = _centred(found, lattices[0])
    position, intensity, sigma = weak_spots(found.spots, found.mapping, lattices[0])
    if not len(position):
        return found
    spots = dataclasses.replace(
        found.spots,
        position=np.concatenate([found.spots.position, position]),
        intensity=np.concatenate([found.spots.intensity, intensity]),
        sigma=np.concatenate([found.spots.sigma, sigma]),
        saturated=np.concatenate([found.spots.saturated, np.zeros(len(position), bool)]),
    )
    return _measured(found.image, spots, found.mapping)


def _centred(found: Measured, indexed: Indexed) -> Measured:
    """With the centre moved to the lattice's origin, by no more than a spot's width."""
    shift = found.mapping.pixels(origin.offset(indexed.q, indexed.hk))
    if np.linalg.norm(shift) > found.spots.width:
        return found
    spots = dataclasses.replace(found.spots, centre=found.spots.centre + shift)
    return _measured(found.image, spots, found.mapping)


def _refused(message: str, step: str, seen: object) -> PatternError:
    error = PatternError(message)
    error.step, error.seen = step, seen
    return error


def _measured(image: Image, spots: SpotList, mapping: Mapping) -> Measured:
    q = mapping.q(spots.position - spots.centre)
    q, intensity, sigma = (x.astype(np.float32) for x in (q, spots.intensity, spots.sigma))
    hk, there = np.zeros(q.shape, np.int32), np.ones(len(q), bool)
    pattern = dx.Pattern(
        *jax.device_put((q, intensity, hk, there, sigma)), image.energy, spots.power_error
    )
    return Measured(image, spots, mapping, pattern)


def _mapping(
    image: Image,
    scale: float | None,
    calibration: Calibration | str | Path | None,
    where: str,
    energy: float | None,
    likely_scale: bool,
) -> tuple[Mapping | None, tuple[str, ...]]:
    """How pixels become 1/angstrom, and what the user should know of the scale.

    None where nothing tells it and a likely one will do.
    """
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
            f"{where}the file gives its scale in angles: also give energy= (--energy) in keV"
        )
    if own is None and likely_scale:
        return None, ()
    if own is None:
        raise PatternError(
            f"{where}an image needs its scale in 1/angstrom per pixel, and the file does not give "
            "one: give scale= (--scale), or calibration= (--calibration) of a ring pattern at the "
            "same camera length, made by dd2d calibrate; retrieve with --scale-error 1 needs none"
        )
    mapping = Mapping(float(own[0]) if np.ptp(own) < 1e-6 * own[0] else own)
    return mapping, _doubts(mapping, None, "file's", image.pixels.shape, where)


def _likely_scale(spots: SpotList) -> float:
    """1/angstrom per pixel at which spots are as far apart as those of usual cells."""
    places = np.concatenate([spots.position, spots.centre[None]])
    distance, _ = cKDTree(places).query(places, 2)
    return _SPACING / float(np.median(distance[:, 1]))


def _doubts(
    mapping: Mapping, own: np.ndarray | None, name: str, shape: tuple[int, ...], where: str
) -> tuple[str, ...]:
    """Lines about a scale that is not the file's `own`, or hardly one in 1/angstrom."""
    notes, scale = [], float(np.mean(mapping.scale))
    if own is not None and abs(np.log(scale / own.mean())) > _CONTRADICTS:
        ratio = scale / own.mean()
        notes.append(
            f"{where}the file says {own.mean():.4g} 1/A per pixel, but the {name} is {scale:.4g} "
            f"({ratio:.3g} times as much): the {name} is used"
        )
    reach = scale * max(shape) / 2
    if reach > _FARTHEST:
        notes.append(
            f"{where}at {scale:.4g} 1/A per pixel the image reaches {reach:.3g} 1/A, farther than "
            f"patterns do; if the scale is in 1/nm, give {scale / 10:.4g}; if it includes 2 pi, "
            f"{scale / 2 / np.pi:.4g}"
        )
    elif reach < _NEAREST:
        notes.append(
            f"{where}at {scale:.4g} 1/A per pixel the image reaches {reach:.3g} 1/A only; is the "
            "scale in 1/angstrom per pixel?"
        )
    return tuple(notes)
