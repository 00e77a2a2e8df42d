"""Makes the images that the package ships as examples: `python -m benchmarks.examples`.

They are simulated, but not as what reads them would have it: intensities by multislice, every
electron a blob of a scintillator, with gain, offset and readout noise, the beam off the middle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import ase.build
import jax
import numpy as np
import tifffile
from ase import Atoms
from scipy import ndimage

import diffraction as dx
from dd2d_jax.data.prototypes.reference import references
from dd2d_jax.images.examples import EXAMPLES

_SHAPE, _SCALE, _CENTRE = (448, 448), 0.0062, (231.6, 217.3)
# Electrons of an image.
_DOSE = 3e6
# The camera: counts an electron, width of an electron's blob (pixels), dark level, noise.
_GAIN, _BLUR, _OFFSET, _READOUT = 12.0, 0.8, 100.0, 4.0


def main() -> None:
    """Write all of them."""
    selenide = next(one.atoms for one in references() if one.uid == "SnSe")
    layers = {
        "MoS2": [(ase.build.mx2("MoS2", a=3.18, thickness=3.13, vacuum=10), 17.0, 1.0)],
        "twisted": [
            (ase.build.graphene(a=2.46, vacuum=10), 8.0, 1.0),
            (ase.build.graphene("BN", a=2.504, vacuum=10), 29.5, 1.0),
        ],
        "SnSe": [(selenide, -33.0, 1.0)],
    }
    for number, example in enumerate(EXAMPLES):
        image = taken(layers[example.name], example.energy, number)
        tifffile.imwrite(
            example.path, image, compression="zlib",
            description=f"{_SCALE:g} 1/angstrom per pixel",
        )  # fmt: skip


def taken(layers: Sequence[tuple[Atoms, float, float]], energy: float, seed: int) -> np.ndarray:
    """An image (H, W) of layers: atoms, rotation in degrees, strength."""
    view = {"shape": _SHAPE, "scale": _SCALE, "centre": _CENTRE}
    image = np.zeros(_SHAPE)
    for atoms, turn, strength in layers:
        pattern = dx.simulate(
            dx.Crystal.from_ase(atoms), dx.Electrons(energy), 1.5, b_iso=0.6, method="multislice"
        )
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        pattern = dataclasses.replace(pattern, q=pattern.q @ np.array([[c, s], [-s, c]], "f"))
        flux = float(pattern.intensity.sum())
        image += strength / flux * np.asarray(
            dx.render(pattern, **view, fwhm=0.022, beam=3 * flux, halo=(flux / 4e3, 0.12))
        )
    image = image + 0.02 / image.size
    image *= np.asarray(dx.beam_stop(**view, radius=0.09, angle=-118.0, width=0.045))
    electrons = np.asarray(dx.counts(jax.random.key(seed), image / image.sum(), _DOSE))
    blobs = ndimage.gaussian_filter(_GAIN * electrons.astype(float), _BLUR)
    noise = np.random.default_rng(seed).normal(_OFFSET, _READOUT, _SHAPE)
    return np.rint(blobs + noise).clip(0, 65535).astype(np.uint16)


if __name__ == "__main__":
    main()
