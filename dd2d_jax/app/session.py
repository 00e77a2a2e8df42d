"""What a window knows: the file, what is set, the spots, the candidates. No widgets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.draw import polygon2mask

from dd2d_jax.app.asked import Asked
from dd2d_jax.app.folder import Folder
from dd2d_jax.images.examples import EXAMPLES
from dd2d_jax.images.image import Image
from dd2d_jax.images.patterns import UNKNOWN_SCALE, is_image, read, read_mask
from dd2d_jax.images.readers import read_image
from dd2d_jax.lattices import lattice
from dd2d_jax.lattices.notes import notes_of_all
from dd2d_jax.util.errors import PatternError, UserError
from dd2d_jax.util.text import safe_name

if TYPE_CHECKING:
    import diffraction as dx
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.images.spot_finding import SpotList
    from dd2d_jax.lattices.indexed import Indexed
    from dd2d_jax.libraries.library import Library
    from dd2d_jax.matching.found import Found
    from dd2d_jax.networks.trained import Model

_NO_SCALE = (
    "The file does not store its scale. Set it in 1/Å per pixel; if it is unknown, set its error "
    "to 1."
)
Region = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Seen:
    """How far a file's reading came.

    Attributes:
        image: None of a list of spots.
        measured: the image's spots, also where they were refused.
        pattern: None where there is none.
        lattices: of the pattern; () where none was found.
        notes: what should be known.
        problem: why it came no further, "" else.
    """

    image: Image | None = None
    measured: Measured | None = None
    pattern: dx.Pattern | None = None
    lattices: tuple[Indexed, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""


class Session:
    """One window: each method takes it a step further, and says what follows from it.

    Attributes:
        folder: that it works in.
        asked: None before a file is open.
        regions: polygons of (column, row) in pixels where not to look.
        seen: how far the reading came.
        found: None before the search.
    """

    def __init__(self, folder: str | Path = ".", library: str | None = None,
                 checkpoint: str | None = None, calibration: str | None = None):  # fmt: skip
        self.folder = Folder(folder)
        self._always = {"library": library, "checkpoint": checkpoint, "calibration": calibration}
        self.asked: Asked | None = None
        self.regions: tuple[Region, ...] = ()
        self.seen = Seen()
        self.found: Found | None = None
        self._spots: tuple[tuple, SpotList] | None = None
        self._image: tuple[str, Image] | None = None
        self._looked: tuple[tuple, Seen] | None = None

    def open(self, path: str, **options: Any) -> None:
        """Begin with a file, its name relative to the folder or absolute.

        Raises:
            UserError: no such file.
            PatternError: a file that is no image and no list.
        """
        where = self.folder.path / path
        if not where.exists():
            raise UserError(f"{path}: no such file")
        image = is_image(where)
        always = {k: v for k, v in self._always.items() if image or k != "calibration"}
        self.asked = Asked(path, image, **{**always, **options})
        self.regions, self.seen, self.found = (), Seen(), None
        self._image = self._spots = self._looked = None

    def open_named(self, name: str) -> None:
        """Begin with a pattern of the folder, by the name that a browser gave."""
        self.open(self.folder.inside(name))

    def open_dropped(self, name: str, data: bytes) -> None:
        """Begin with a file that was dropped on the window."""
        self.open(self.folder.keep(name, data))

    def open_example(self, name: str) -> None:
        """Begin with one of the package's examples, a copy of it in the folder."""
        example = next(one for one in EXAMPLES if one.name == name)
        self.open(
            self.folder.keep(example.path.name, example.path.read_bytes()), energy=example.energy
        )

    def change(self, **options: Any) -> bool:
        """Set options of `Asked`, or regions; whether anything is another than before.

        What was refined or proposed belongs to what was set before.
        """
        regions = tuple(options.pop("regions", self.regions))
        if self.asked is None:
            return False
        if regions != self.regions:
            self.regions, options["mask"] = regions, self._mask(regions)
        made = dataclasses.replace(self.asked, **{"refine": False, "propose": False, **options})
        if made == self.asked:
            return False
        self.asked, self.found = made, None
        return True

    def _mask(self, regions: Sequence[Region]) -> str | None:
        if not regions or not self.asked.image:
            return None
        shape = self._read().pixels.shape
        hidden = np.zeros(shape, bool)
        for region in regions:
            hidden |= polygon2mask(shape, np.array(region)[:, ::-1])
        return self.folder.mask(~hidden)

    def look(self) -> Seen:
        """Find spots and lattices of what is set."""
        asked = self.asked
        reading = asked.path, asked.reading()
        if self._looked is not None and self._looked[0] == reading:
            self.seen = self._looked[1]
            return self.seen
        try:
            seen = self._read_image(asked) if asked.image else self._read_list(asked)
        except (PatternError, UserError, OSError) as error:
            seen = self._refused(error)
        self.seen, self._looked = seen, (reading, seen)
        if asked.image and seen.measured is not None and not seen.problem and not asked.undistort:
            self._spots = asked.finding(), seen.measured.spots
        return seen

    def _read(self) -> Image:
        """The image, which is read once."""
        if self._image is None or self._image[0] != self.asked.path:
            self._image = self.asked.path, read_image(self.folder.path / self.asked.path)
        return self._image[1]

    def _read_list(self, asked: Asked) -> Seen:
        got = read(self.folder.path / asked.path, **asked.reading())
        return self._with_lattices(Seen(pattern=got.pattern, notes=got.notes))

    def _read_image(self, asked: Asked) -> Seen:
        from dd2d_jax.images.measurement import measure

        told = asked.reading()
        if asked.calibration is not None:
            told["calibration"] = self.folder.path / asked.calibration
        if asked.mask is not None:
            told["mask"] = read_mask(self.folder.path / asked.mask)
        image = self._read()
        if asked.scale is None and asked.calibration is None and image.scale_at(
            asked.energy or image.energy
        ) is None and asked.scale_error < UNKNOWN_SCALE:  # fmt: skip
            measured = measure(image, **{**told, "likely_scale": True}, spots=self._same(asked))
            return Seen(image, measured, problem=_NO_SCALE)
        measured = measure(image, **told, spots=self._same(asked))
        return self._with_lattices(
            Seen(image, measured, measured.pattern, notes=measured.image.notes)
        )

    def _same(self, asked: Asked) -> SpotList | None:
        """The spots, where nothing was changed by which they are found."""
        known = self._spots is not None and self._spots[0] == asked.finding()
        return self._spots[1] if known and not asked.undistort else None

    def _with_lattices(self, seen: Seen) -> Seen:
        try:
            found = tuple(lattice.find_all(seen.pattern))
        except PatternError as error:
            return dataclasses.replace(seen, problem=str(error))
        notes = (*seen.notes, *notes_of_all(found))
        return dataclasses.replace(seen, lattices=found, notes=notes)

    def _refused(self, error: Exception) -> Seen:
        from dd2d_jax.images.measurement import Measured

        seen = getattr(error, "seen", None)
        measured = seen if isinstance(seen, Measured) else None
        image = measured.image if measured else self._image[1] if self._image else None
        return Seen(image if self.asked.image else None, measured, problem=str(error))

    def search(self) -> Found | None:
        """The candidates; None where there is no lattice, or no crystal of what was asked for.

        `seen.problem` says why then.
        """
        from dd2d_jax.matching.retrieval import retrieve

        asked, seen = self.asked, self.seen
        if seen.problem or seen.pattern is None:
            return None
        try:
            found = retrieve(
                seen.pattern, library_of(asked.library), model_of(asked.checkpoint),
                **asked.searching(),
            )  # fmt: skip
        except ValueError as error:
            self.seen = dataclasses.replace(seen, problem=str(error))
            return None
        if asked == self.asked:
            self.found = found
        return found

    def page(self) -> str:
        """The report, written into the folder; its name there.

        Raises:
            UserError: nothing has been found yet.
        """
        if self.found is None or self.asked is None:
            raise UserError("nothing to save yet: open a pattern and wait for its candidates")
        about = {
            "file": self.asked.name,
            "command": self.asked.command(),
            "library": self.asked.library or "the one in the package",
            "note": "; ".join(self.seen.notes),
        }
        text = self.found.page(self.seen.measured, about)
        return self.folder.write(f"{safe_name(Path(self.asked.path).stem)}.html", text)


@functools.cache
def model_of(checkpoint: str | None) -> Model:
    """The network, loaded once for all windows."""
    from dd2d_jax.networks.trained import load

    return load(checkpoint)


@functools.cache
def library_of(folder: str | None) -> Library:
    """The library, opened once for all windows."""
    from dd2d_jax.libraries.library import Library

    return Library.load(folder)
