"""What is set in the window, and the command and the Python that do the same."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from dd2d_jax.images.patterns import UNKNOWN_SCALE

_K, _SCALE_ERROR = 10, 0.02


@dataclasses.dataclass(frozen=True)
class Asked:
    """A pattern's file and how it is read and searched for; else the program's own defaults.

    Attributes:
        path: as a command names it.
        image: False for a list of spots, which most options are not for.
        scale: 1/angstrom per pixel.
        energy: keV.
        centre: column and row of the beam, pixels.
        threshold: of spots, standard deviations of the noise.
        undistort, beam_stop: as in `read_pattern`.
        calibration: file from `dd2d calibrate`.
        mask: file, 0 where not to look.
        elements, contains, excludes: as in `retrieve`, such as "Mo,S"; "" for any.
        scale_error: how wrong the scale may be, relative.
        k: candidates.
        refine, propose: as in `retrieve`.
        library, checkpoint: folders; None takes the package's own.
    """

    path: str
    image: bool = True
    scale: float | None = None
    energy: float | None = None
    centre: tuple[float, float] | None = None
    threshold: float | None = None
    undistort: bool = False
    beam_stop: bool = True
    calibration: str | None = None
    mask: str | None = None
    elements: str = ""
    contains: str = ""
    excludes: str = ""
    scale_error: float = _SCALE_ERROR
    k: int = _K
    refine: bool = False
    propose: bool = False
    library: str | None = None
    checkpoint: str | None = None

    def reading(self) -> dict[str, Any]:
        """What `patterns.read` is told besides the file, defaults left out."""
        names = ("scale", "energy")
        if self.image:
            names += ("centre", "threshold", "calibration", "mask")
        told = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        if self.image and self.undistort:
            told["undistort"] = True
        if self.image and not self.beam_stop:
            told["beam_stop"] = False
        if self.image and self.scale_error >= UNKNOWN_SCALE:
            told["likely_scale"] = True
        return told

    def searching(self) -> dict[str, Any]:
        """What `retrieve` is told besides pattern, library and model, defaults left out."""
        told: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("elements", "contains", "excludes")
            if getattr(self, name)
        }
        if self.scale_error != _SCALE_ERROR:
            told["scale_error"] = self.scale_error
        if self.k != _K:
            told["k"] = self.k
        return told | {name: True for name in ("refine", "propose") if getattr(self, name)}

    def finding(self) -> tuple:
        """What decides which spots an image has; scale, energy and elements do not."""
        return self.path, self.centre, self.threshold, self.beam_stop, self.mask

    def command(self) -> str:
        """The line of a shell that finds the same."""
        words = ["dd2d", "retrieve", self.path]
        flags = {**self.reading(), **self.searching()}
        flags.pop("likely_scale", None)  # by --scale-error
        if flags.pop("beam_stop", True) is False:
            words.append("--no-beam-stop")
        for name, value in flags.items():
            words.append("-k" if name == "k" else f"--{name.replace('_', '-')}")
            if value is not True:
                words += map(str, value if isinstance(value, tuple) else [value])
        for name in ("library", "checkpoint"):
            if getattr(self, name) is not None:
                words += [f"--{name}", getattr(self, name)]
        return shlex.join(words)

    def python(self) -> str:
        """The lines of Python that find the same."""
        reading = "".join(f", {name}={value!r}" for name, value in self.reading().items())
        searching = dict(self.searching())
        lines = [
            "import dd2d_jax", "",
            f"pattern = dd2d_jax.read_pattern({self.path!r}{reading})",
        ]  # fmt: skip
        if self.library is not None:
            searching["library"] = self.library
        told = "".join(f", {name}={value!r}" for name, value in searching.items())
        if self.checkpoint is not None:
            lines.append(f"model = dd2d_jax.load({self.checkpoint!r})")
            told += ", model=model"
        lines += [f"found = dd2d_jax.retrieve(pattern{told})", "print(found.to_dict())", ""]
        return "\n".join(lines)

    @property
    def name(self) -> str:
        """Of the file, without its folder."""
        return Path(self.path).name
