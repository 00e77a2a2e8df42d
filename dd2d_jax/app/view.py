"""The pattern as a picture that can be touched: image, spots, rings of a candidate, mask, centre.

Of an image the axes are columns and rows, rows downwards; of a list of spots q, 1/angstrom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    GlyphRenderer,
    HoverTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    WheelZoomTool,
)
from bokeh.palettes import gray
from bokeh.plotting import figure
from scipy import ndimage
from skimage.measure import approximate_polygon

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
FOUND, OTHERS, BOTH, LOST, _REJECTED = "#56b4e9", "#cc79a7", "#e69f00", "#f0e442", "#d55e00"
_RING = {"both": (BOTH, "solid"), "lost": (LOST, "solid"), "blind": (BOTH, "dotted")}
_NIGHT = "#0d1321"
# What the mouse does, by what a person reads.
LOOK, CENTRE, MASK = "look", "move the centre", "mask a region"
# Of a drag with the mouse, in the browser: what is drawn follows it at once, and is told when it
# ends. The mode stands in the tags of `line`.
_DRAGGED = """
const [mode, kind, here] = [line.tags[0], cb_obj.event_name, [cb_obj.x, cb_obj.y]];
if (mode == "look" || here.some(value => value == null)) return;
if (mode == "move the centre") {
  centre.data.x = [here[0]];
  centre.data.y = [here[1]];
  centre.change.emit();
  if (kind == "panend" || kind == "tap") placed.data = {x: [here[0]], y: [here[1]]};
} else if (kind != "tap") {
  if (kind == "panstart") { line.data.x = []; line.data.y = []; }
  line.data.x.push(here[0]);
  line.data.y.push(here[1]);
  line.change.emit();
  if (kind == "panend") {
    region.data = {x: [...line.data.x], y: [...line.data.y]};
    line.data = {x: [], y: []};
  }
}
"""
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
        """`moved` is told where the centre was put, `masked` a region's corners, in pixels."""
        self._x, self._y = Range1d(0, 1), Range1d(1, 0)
        self.figure = figure(
            x_range=self._x, y_range=self._y, tools="", toolbar_location=None, match_aspect=True,
            sizing_mode="scale_width", aspect_ratio=1, min_width=280, background_fill_color=_NIGHT,
            border_fill_color=None, outline_line_color=None, name="pattern",
        )  # fmt: skip
        self.figure.axis.visible = self.figure.grid.visible = False
        self._frame: Any = None
        self._sources = {
            name: ColumnDataSource(dict.fromkeys(columns.split(), []), name=name)
            for name, columns in {
                "image": "image x y w h", "hidden": "image x y w h", "found": "x y tip",
                "others": "x y tip", "rejected": "x y", "predicted": "x y size colour dash tip",
                "centre": "x y", "regions": "xs ys", "line": "x y", "region": "x y",
                "placed": "x y",
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
            "line": f.line(x="x", y="y", source=s["line"], line_color=_REJECTED, line_width=2),
            "rejected": f.scatter(x="x", y="y", source=s["rejected"], marker="x", size=8,
                                  line_color=_REJECTED),
            "others": f.scatter(**ring, source=s["others"], size=13, line_color=OTHERS,
                                line_width=1.6),
            "found": f.scatter(**ring, source=s["found"], size=13, line_color=FOUND,
                               line_width=1.6),
            "predicted": f.scatter(**ring, source=s["predicted"], line_width=2, size="size",
                                   line_color="colour", line_dash="dash"),
            "centre": f.scatter(x="x", y="y", source=s["centre"], marker="cross", size=26,
                                line_color="#ffffff", line_width=2),
        }  # fmt: skip

    def _add_tools(self, drawn: dict, moved: Any, masked: Any) -> None:
        wheel = WheelZoomTool()
        tips = [drawn[name] for name in ("found", "others", "predicted")]
        hover = HoverTool(renderers=tips, tooltips=[("", "@tip")], point_policy="follow_mouse")
        self._pan = PanTool()
        self.figure.add_tools(wheel, hover, ResetTool(), self._pan)
        self.figure.toolbar.active_scroll = wheel
        names = ("line", "centre", "region", "placed")
        follow = CustomJS(args={name: self._sources[name] for name in names}, code=_DRAGGED)
        for kind in ("panstart", "pan", "panend", "tap"):
            self.figure.js_on_event(kind, follow)
        whole = CustomJS(args={"figure": self.figure}, code="figure.reset.emit()")
        self.figure.js_on_event("doubletap", whole)
        if moved is not None:
            self._sources["placed"].on_change(
                "data", lambda attr, old, new: self._told_centre(moved)
            )
        if masked is not None:
            self._sources["region"].on_change(
                "data", lambda attr, old, new: self._told_region(masked)
            )
        self.mouse(LOOK)

    def mouse(self, mode: str) -> None:
        """What dragging does: one of `LOOK`, `CENTRE`, `MASK`."""
        self.figure.toolbar.active_drag = self._pan if mode == LOOK else None
        self._sources["line"].tags = [mode]

    def _told_centre(self, moved: Callable) -> None:
        data = self._sources["placed"].data
        if len(data["x"]) == len(data["y"]) == 1:
            moved(float(data["x"][0]), float(data["y"][0]))

    def _told_region(self, masked: Callable) -> None:
        corners = zip(*(self._sources["region"].data[name] for name in "xy"), strict=True)
        region = tuple((round(float(x), 1), round(float(y), 1)) for x, y in corners)
        if len(region) > 2:
            masked(_fewer(region))

    def show_image(self, image: Image | None, measured: Measured | None) -> None:
        """The image, and where it is not measured; None clears both."""
        if image is None:
            self._set("image")
            self._set("hidden")
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
            places, rejected, centre = np.zeros((0, 2)) if q is None else q, [], np.zeros((1, 2))
            if len(places):
                limit = 1.08 * float(np.linalg.norm(places, axis=1).max())
                self._x.update(start=-limit, end=limit, reset_start=-limit, reset_end=limit)
                self._y.update(start=-limit, end=limit, reset_start=-limit, reset_end=limit)
                self.figure.aspect_ratio, self._frame = 1, None
            unit, digits = "1/Å", 4
        else:
            spots = measured.spots
            places, rejected = spots.position, spots.rejected
            centre = np.reshape(spots.centre, (1, 2))
            unit, digits = "px", 1
        on = np.zeros(len(places), bool)
        for one in lattices:
            on[one.spots] = True
        on |= not lattices
        for name, rows, what in (("found", on, "found"), ("others", ~on, "on no lattice")):
            tips = [f"{what} at {x:.{digits}f}, {y:.{digits}f} {unit}" for x, y in places[rows]]
            self._set(name, **_columns(places[rows]), tip=tips)
        self._set("rejected", **_columns(np.reshape(rejected, (-1, 2))))
        self._set("centre", **_columns(centre))

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


def _fewer(region: tuple, near: float = 1.0) -> tuple:
    """Without corners that hardly matter, `near` in pixels: a mouse tells of hundreds."""
    kept = approximate_polygon(np.array([*region, region[0]]), near)[:-1]
    return tuple(map(tuple, kept.tolist())) if len(kept) > 2 else region
