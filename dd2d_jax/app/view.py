"""The pattern as a picture that can be touched: image, spots, rings of a candidate, mask, centre.

Of an image the axes are columns and rows, rows downwards; of a list of spots q, 1/angstrom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import DoubleTap, SelectionGeometry
from bokeh.models import (
    ColumnDataSource,
    GlyphRenderer,
    HoverTool,
    LassoSelectTool,
    LinearColorMapper,
    PanTool,
    PointDrawTool,
    Range1d,
    ResetTool,
    WheelZoomTool,
)
from bokeh.palettes import gray
from bokeh.plotting import figure
from scipy import ndimage

from dd2d_jax.reports import query_drawings
from dd2d_jax.reports.comparison import Predicted, pixels
from dd2d_jax.reports.image_view import grey

if TYPE_CHECKING:
    from dd2d_jax.images.image import Image
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.lattices.indexed import Indexed

# The longer side of the picture that is sent, pixels.
_SIDE = 1200
# Okabe and Ito's colours, as in the page.
_FOUND, _OTHERS, _BOTH, _LOST, _REJECTED = "#56b4e9", "#cc79a7", "#e69f00", "#f0e442", "#d55e00"
_RING = {"both": (_BOTH, "solid"), "lost": (_LOST, "solid"), "blind": (_BOTH, "dotted")}
_NIGHT = "#0d1321"
# What the mouse does, by what a person reads.
LOOK, CENTRE, MASK = "look", "move the centre", "mask a region"
# Layers that can be switched, by what a person reads.
LAYERS = {"image": "image", "spots": "spots found", "predicted": "predicted spots"}


class View:
    """A figure and what is drawn in it.

    Attributes:
        figure: of bokeh.
        layers: its parts by the names in `LAYERS`, for switching.
    """

    def __init__(
        self,
        moved: Callable[[float, float], None] | None = None,
        masked: Callable[[tuple[tuple[float, float], ...]], None] | None = None,
    ):
        """`moved` is told where the centre was put, `masked` a region, both in pixels."""
        self._x, self._y = Range1d(0, 1), Range1d(1, 0)
        self.figure = figure(
            x_range=self._x, y_range=self._y, tools="", toolbar_location=None, match_aspect=True,
            sizing_mode="scale_width", aspect_ratio=1, min_width=280, background_fill_color=_NIGHT,
            border_fill_color=None, outline_line_color=None, name="pattern",
        )  # fmt: skip
        self.figure.axis.visible = self.figure.grid.visible = False
        self._frame: Any = None
        self._sources = {
            name: ColumnDataSource(dict.fromkeys(columns.split(), []))
            for name, columns in {
                "image": "image x y w h", "hidden": "image x y w h", "found": "x y tip",
                "others": "x y tip", "rejected": "x y", "predicted": "x y size colour dash tip",
                "centre": "x y", "regions": "xs ys",
            }.items()
        }  # fmt: skip
        drawn = self._drawn()
        self.layers = {
            "image": [drawn["image"], drawn["hidden"]],
            "spots": [drawn["found"], drawn["others"], drawn["rejected"]],
            "predicted": [drawn["predicted"]],
        }
        self._add_tools(drawn, moved, masked)

    def _drawn(self) -> dict[str, GlyphRenderer]:
        f, s = self.figure, self._sources
        place = {"x": "x", "y": "y", "dw": "w", "dh": "h"}
        mapper = LinearColorMapper(palette=gray(256), low=0, high=255)
        veil = LinearColorMapper(palette=["#80808000", "#5d7fa877"], low=0, high=1)
        ring = {"x": "x", "y": "y", "marker": "circle", "fill_color": None}
        return {
            "image": f.image(image="image", source=s["image"], color_mapper=mapper, **place),
            "hidden": f.image(image="image", source=s["hidden"], color_mapper=veil, **place),
            "regions": f.patches(xs="xs", ys="ys", source=s["regions"], fill_color=_REJECTED,
                                 fill_alpha=0.35, line_color=_REJECTED),
            "rejected": f.scatter(x="x", y="y", source=s["rejected"], marker="x", size=8,
                                  line_color=_REJECTED),
            "others": f.scatter(**ring, source=s["others"], size=13, line_color=_OTHERS,
                                line_width=1.6),
            "found": f.scatter(**ring, source=s["found"], size=13, line_color=_FOUND,
                               line_width=1.6),
            "predicted": f.scatter(**ring, source=s["predicted"], line_width=2, size="size",
                                   line_color="colour", line_dash="dash"),
            "centre": f.scatter(x="x", y="y", source=s["centre"], marker="cross", size=22,
                                line_color="#ffffff", line_width=2),
        }  # fmt: skip

    def _add_tools(self, drawn: dict, moved: Any, masked: Any) -> None:
        wheel = WheelZoomTool()
        tips = [drawn[name] for name in ("found", "others", "predicted")]
        hover = HoverTool(renderers=tips, tooltips=[("", "@tip")], point_policy="follow_mouse")
        self._tools = {LOOK: PanTool(), MASK: LassoSelectTool(continuous=False)}
        if moved is not None:
            self._tools[CENTRE] = PointDrawTool(renderers=[drawn["centre"]], add=False)
            self._sources["centre"].on_change(
                "data", lambda attr, old, new: self._told_centre(moved)
            )
            self.figure.on_event(
                DoubleTap, lambda e: moved(e.x, e.y) if self._mode == CENTRE else None
            )
        if masked is not None:
            self.figure.on_event(SelectionGeometry, lambda e: self._told_region(e, masked))
        self.figure.add_tools(wheel, hover, ResetTool(), *self._tools.values())
        self.figure.toolbar.active_scroll = wheel
        self.mouse(LOOK)

    def mouse(self, mode: str) -> None:
        """What dragging does: one of `LOOK`, `CENTRE`, `MASK`."""
        self._mode = mode
        self.figure.toolbar.active_drag = self._tools[mode]
        # Only a tap takes hold of points.
        self.figure.toolbar.active_tap = self._tools[mode] if mode == CENTRE else None

    def _told_centre(self, moved: Callable) -> None:
        data = self._sources["centre"].data
        if len(data["x"]) == 1 and (data["x"][0], data["y"][0]) != self._centre:
            moved(float(data["x"][0]), float(data["y"][0]))

    def _told_region(self, event: SelectionGeometry, masked: Callable) -> None:
        geometry = event.geometry
        if event.final and geometry.get("type") == "poly" and len(geometry["x"]) > 2:
            masked(tuple((round(float(x), 1), round(float(y), 1))
                         for x, y in zip(geometry["x"], geometry["y"], strict=True)))  # fmt: skip

    _centre: tuple | None = None
    _mode = LOOK

    def show_image(self, image: Image | None, measured: Measured | None) -> None:
        """The image, and where it is not measured; None clears both."""
        if image is None:
            self._set("image"), self._set("hidden")
            return
        if self._frame is not image.pixels:
            self._frame = image.pixels
            self._reach(image.pixels.shape[::-1])
            self._set("image", **_picture(255 * grey(image.pixels), smooth=True))
        if measured is None or measured.spots.measured.all():
            self._set("hidden")
        else:
            self._set("hidden", **_picture(1.0 * ~measured.spots.measured))

    def _reach(self, size: Sequence[int]) -> None:
        width, height = (float(n) for n in size)
        self._x.update(start=-0.5, end=width - 0.5, reset_start=-0.5, reset_end=width - 0.5)
        self._y.update(start=height - 0.5, end=-0.5, reset_start=height - 0.5, reset_end=-0.5)
        self.figure.aspect_ratio = width / height

    def show_spots(self, measured: Measured | None, lattices: Sequence[Indexed],
                   q: np.ndarray | None = None) -> None:  # fmt: skip
        """Spots that were found, of an image or of a list (q (K, 2)): those of a lattice apart."""
        if measured is None:
            places, rejected, self._centre = np.zeros((0, 2)) if q is None else q, [], (0.0, 0.0)
            if len(places):
                limit = 1.08 * float(np.linalg.norm(places, axis=1).max())
                self._x.update(start=-limit, end=limit, reset_start=-limit, reset_end=limit)
                self._y.update(start=-limit, end=limit, reset_start=-limit, reset_end=limit)
                self.figure.aspect_ratio, self._frame = 1, None
            unit, digits = "1/Å", 4
        else:
            spots = measured.spots
            places, rejected = spots.position, spots.rejected
            self._centre = tuple(float(x) for x in spots.centre)
            unit, digits = "px", 1
        on = np.zeros(len(places), bool)
        for one in lattices:
            on[one.spots] = True
        on |= not lattices
        for name, rows, what in (("found", on, "found"), ("others", ~on, "on no lattice")):
            tips = [f"{what} at {x:.{digits}f}, {y:.{digits}f} {unit}" for x, y in places[rows]]
            self._set(name, **_columns(places[rows]), tip=tips)
        self._set("rejected", **_columns(np.reshape(rejected, (-1, 2))))
        self._set("centre", **_columns(np.array([self._centre])))

    def show_predicted(
        self, predicted: Predicted | None, indexed: Indexed | None, measured: Measured | None
    ) -> None:
        """A candidate's rings; None takes them away."""
        if predicted is None:
            self._set("predicted")
            return
        strongest = np.argsort(-predicted.calculated, kind="stable")[: query_drawings.SPOTS]
        q = predicted.q[strongest]
        places = q if measured is None else pixels(measured, indexed, q)
        kinds = [_RING[query_drawings.spot_kind(predicted, i)] for i in strongest]
        self._set(
            "predicted", **_columns(places), size=query_drawings.ring_radius(
                predicted.calculated[strongest]
            ).tolist(),
            colour=[colour for colour, _ in kinds], dash=[dash for _, dash in kinds],
            tip=[query_drawings.tip(predicted, i) for i in strongest],
        )  # fmt: skip

    def show_regions(self, regions: Sequence[Sequence[tuple[float, float]]]) -> None:
        """Regions that are masked."""
        self._set("regions", xs=[[x for x, _ in one] for one in regions],
                  ys=[[y for _, y in one] for one in regions])  # fmt: skip

    def switch(self, layers: Sequence[str]) -> None:
        """Show these of `LAYERS` and hide the others."""
        for name, drawn in self.layers.items():
            for one in drawn:
                one.visible = name in layers

    def _set(self, name: str, **columns: Any) -> None:
        source = self._sources[name]
        source.data = {key: columns.get(key, []) for key in source.data}


def _columns(places: np.ndarray) -> dict[str, list[float]]:
    return {"x": places[:, 0].tolist(), "y": places[:, 1].tolist()}


def _picture(values: np.ndarray, smooth: bool = False) -> dict[str, list]:
    """Levels (H, W) for the browser, few enough pixels to be sent at once."""
    height, width = values.shape
    zoom = min(1.0, _SIDE / max(values.shape))
    if zoom < 1:
        # Weak spots must not fall between the pixels that are kept.
        blurred = ndimage.gaussian_filter(values, 0.4 / zoom) if smooth else values
        values = ndimage.zoom(blurred, zoom, order=1 if smooth else 0)
    levels = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    return {"image": [levels], "x": [-0.5], "y": [-0.5], "w": [width], "h": [height]}
