"""Images that come with the package, to try it without any data of one's own.

`python -m benchmarks.examples` makes them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

_FOLDER = Path(__file__).parent / "examples"


@dataclasses.dataclass(frozen=True)
class Example:
    """A simulated image whose answer is known.

    Attributes:
        name: such as "MoS2".
        what: one line for a menu.
        path: of the image, which knows its scale.
        energy: of the electrons, keV, which the file does not say.
        answer: reduced formula of each crystal in it.
    """

    name: str
    what: str
    path: Path
    energy: float
    answer: tuple[str, ...]


EXAMPLES = (
    Example("MoS2", "one layer of MoS2", _FOLDER / "mos2.tif", 80.0, ("MoS2",)),
    Example(
        "twisted", "graphene on h-BN, twisted", _FOLDER / "twisted.tif", 80.0, ("C", "BN")
    ),
    Example("SnSe", "one layer of SnSe", _FOLDER / "snse.tif", 200.0, ("SnSe",)),
)
