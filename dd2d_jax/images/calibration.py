"""What is known of a camera length: from pixels to 1/angstrom, with uncertainties."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from dd2d_jax.images.distortion import Mapping
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import read_json


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the pattern of a known material says of its camera length.

    Attributes:
        material: name, or the file that it was read from.
        shape: (H, W) of the image.
        centre: (2,) column and row of the beam in it, pixels.
        mapping: from pixels to 1/angstrom.
        sigma: standard uncertainties: "scale", "centre" (2,), "ellipticity", "axis" (degrees),
            "radial".
        rings: (R,) q of the rings within the image, or of the families of spots, 1/angstrom.
        explained: share of the variance beside a smooth background and noise that the rings
            explain, or of the spots that lie on the lattice.
    """

    material: str
    shape: tuple[int, int]
    centre: tuple[float, float]
    mapping: Mapping
    sigma: dict
    rings: tuple[float, ...]
    explained: float

    def as_dict(self) -> dict:
        """JSON: lengths in pixels and 1/angstrom, angles in degrees from +x towards +y (up)."""
        m = self.mapping
        return {
            "material": self.material,
            "shape": list(self.shape),
            "centre": list(self.centre),
            "scale": m.scale,
            "ellipticity": m.ellipticity,
            "axis": m.axis,
            "radial": m.radial,
            "stretch": [m.stretch.real, m.stretch.imag],
            "sigma": self.sigma,
            "rings": list(self.rings),
            "explained": self.explained,
        }

    def save(self, path: str | Path) -> None:
        """Write as JSON, moved into place once it is whole.

        Raises:
            OSError: the file cannot be written.
        """
        with new_file(path) as part:
            part.write_text(json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            PatternError: not such a file, with the field that is wrong.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; make it with dd2d calibrate")
        try:
            data = read_json(path, error=PatternError)
            numbers = [data["scale"], data["radial"], *data["stretch"], *data["centre"]]
            scale, radial, real, imaginary, column, row = (float(x) for x in numbers)
            height, width = (int(x) for x in data["shape"])
            material, rings = str(data["material"]), tuple(float(x) for x in data["rings"])
            sigma, explained = dict(data["sigma"]), float(data["explained"])
        except KeyError as error:
            missing = error.args[0]
            raise PatternError(f"{path}: not a calibration, {missing!r} is missing") from error
        except PatternError:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            raise PatternError(f"{path}: not a calibration made by dd2d calibrate") from error
        finite = all(math.isfinite(x) for x in (radial, real, imaginary, column, row))
        if not (finite and 1e-12 < scale < 1e12 and math.hypot(real, imaginary) < 0.5):
            raise PatternError(f"{path}: scale must be positive, stretch and radial small numbers")
        mapping = Mapping(scale, complex(real, imaginary), radial)
        return cls(material, (height, width), (column, row), mapping, sigma, rings, explained)
