"""A picture of an image that was refused: how far it came, at which step, and what may help."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dd2d_jax.images.measurement import Measured
from dd2d_jax.reports.diagnostics import logarithm, plot_steps, show
from dd2d_jax.util.errors import PatternError

# What a person may try, by the step at which an image was refused.
_CENTRE = "if the cross is not at the beam give --centre"
_FEWER = "if circles hold no reflection, a higher --threshold or a --mask leaves them out"
_HELP = {
    "scale": "give --scale or --calibration",
    "spots": "a lower --threshold finds weaker spots, --width wider or narrower ones; --mask hides "
    "annotations and what is no part of the pattern",
    "symmetry": f"{_CENTRE}; {_FEWER}",
    "distortion": f"without --undistort the image is taken as it is; {_CENTRE}",
    "lattice": f"{_CENTRE}; {_FEWER}; if rows of spots are curved, --undistort",
}


def plot_refused(error: PatternError) -> Figure:
    """The image of an error from `measurement.measure`, with all that had been found by then.

    Raises:
        ValueError: the error is not of an image.
    """
    if error.seen is None:
        raise ValueError("the error is not of an image: there is nothing to draw")
    note = f"refused at the step: {error.step}\n{error}\n{_HELP[error.step]}"
    if isinstance(error.seen, Measured):
        return plot_steps(error.seen, None, note)
    figure = Figure(figsize=(9, 10), layout="constrained")
    ax = figure.add_subplot()
    show(ax, logarithm(np.asarray(error.seen.pixels)), "magma")
    figure.suptitle(note, fontsize=11, parse_math=False, wrap=True)
    return figure
