"""The window's left side: what is opened, and how it is read and searched for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import panel as pn

from dd2d_jax.app.folder import MAX_DROPPED
from dd2d_jax.app.locked import locked
from dd2d_jax.app.periodic_table import PeriodicTable
from dd2d_jax.app.session import Region, Seen, Session
from dd2d_jax.app.style import BOX, SHEET
from dd2d_jax.app.view import CENTRE, LOOK, MASK
from dd2d_jax.images.examples import EXAMPLES
from dd2d_jax.images.image import HIGHEST_ENERGY, LOWEST_ENERGY
from dd2d_jax.images.spot_finding import THRESHOLD
from dd2d_jax.libraries.elements import element_symbols

_SCALE_ERRORS = {
    "0.2 %": 0.002, "1 %": 0.01, "2 %": 0.02, "5 %": 0.05, "20 %": 0.2, "a factor 2": 1.0,
}  # fmt: skip
_NOTHING = "…"


class _Drop(pn.widgets.FileDropper):
    """Takes no more bytes than the limit, whatever the browser sends."""

    _taken = 0

    def _process_event(self, event: Any) -> None:
        if event.event_name != "delete_event":
            first = event.data["chunk"] == 1
            self._taken = len(event.data["data"]) + (0 if first else self._taken)
            if self._taken > MAX_DROPPED:
                self._file_buffer.clear()
                return
        super()._process_event(event)


class Controls:
    """Widgets of a `Session`: they say what a person sets, and show what is set.

    Attributes:
        column: all of them.
    """

    def __init__(
        self,
        session: Session,
        change: Callable[..., None],
        opened: Callable[..., None],
        mouse: Callable[[str], None],
    ):
        self._session, self._change = session, change
        self._filling = False
        self._open_widgets(opened)
        sheet = {"stylesheets": [SHEET]}
        number = {**sheet, "width": 134}
        self.scale = pn.widgets.FloatInput(
            label="Scale (1/Å per pixel)", value=None, step=1e-4, start=1e-6, format="0.000000",
            **number,
        )  # fmt: skip
        self.energy = pn.widgets.FloatInput(
            label="Energy (keV)", value=None, step=20, start=LOWEST_ENERGY, end=HIGHEST_ENERGY,
            **number,
        )  # fmt: skip
        self.threshold = pn.widgets.FloatInput(
            label="Threshold (σ)", value=THRESHOLD, step=0.5, start=1, **number
        )
        self.scale_error = pn.widgets.Select(
            label="Error of the scale", options=_SCALE_ERRORS, value=0.02, **number
        )
        self.column_x = pn.widgets.FloatInput(
            label="Centre: column", value=None, step=0.5, format="0.0", **number
        )
        self.row_y = pn.widgets.FloatInput(
            label="Centre: row", value=None, step=0.5, format="0.0", **number
        )
        self.automatic = pn.widgets.Button(label="Find the centre", **sheet)
        self.undistort = pn.widgets.Checkbox(label="Fit the distortion", **sheet)
        self.beam_stop = pn.widgets.Checkbox(label="There is a beam stop", value=True, **sheet)
        self.mouse = pn.widgets.RadioButtonGroup(
            label="Dragging the mouse", options=[LOOK, CENTRE, MASK], value=LOOK, **sheet
        )
        self.regions = pn.widgets.TextAreaInput(
            label="Masked regions, one per line", rows=2, width=280,
            placeholder="10,10 90,10 90,40 10,40", **sheet,
        )  # fmt: skip
        words = {**sheet, "width": 280}
        self.elements = pn.widgets.TextInput(
            label="Made only of", placeholder="Mo,S or MoS2 or nonmetals,Mo", **words
        )
        self.contains = pn.widgets.TextInput(label="Contains", placeholder="Mo", **words)
        self.excludes = pn.widgets.TextInput(label="Contains none of", placeholder="O,Cl", **words)
        self.table = PeriodicTable(lambda symbols: change(elements=",".join(symbols)))
        self._watch(mouse)
        self.column = self._laid_out()

    def _open_widgets(self, opened: Callable[..., None]) -> None:
        sheet = {"stylesheets": [SHEET]}
        self.drop = _Drop(
            max_file_size=f"{MAX_DROPPED // 2**20}MB", previews=[], width=280, height=92, **sheet
        )
        self.example = pn.widgets.Select(
            label="Example", options=[_NOTHING, *(f"{x.name}: {x.what}" for x in EXAMPLES)],
            width=280, **sheet,
        )  # fmt: skip
        self.file = pn.widgets.Select(
            label="File in this folder", options=[_NOTHING], width=280, **sheet
        )

        def dropped(event: Any) -> None:
            for name, data in dict(event.new).items():
                data = data.encode() if isinstance(data, str) else data
                opened(self._session.open_dropped, name, data)
            self.drop.value.clear()

        def chosen(event: Any, how: Callable[[str], None]) -> None:
            if event.new != _NOTHING and not self._filling:
                opened(how, event.new.partition(":")[0] if how != self._session.open_named
                       else event.new)  # fmt: skip

        self.drop.param.watch(dropped, "value", onlychanged=False)
        self.example.param.watch(lambda e: chosen(e, self._session.open_example), "value")
        self.file.param.watch(lambda e: chosen(e, self._session.open_named), "value")

    def _watch(self, mouse: Callable[[str], None]) -> None:
        def told(**options: Any) -> None:
            if not self._filling:
                self._change(**options)

        for name in ("scale", "energy"):
            widget = getattr(self, name)
            widget.param.watch(lambda e, name=name: told(**{name: _float(e.new)}), "value")
        for name in ("undistort", "beam_stop", "scale_error"):
            widget = getattr(self, name)
            widget.param.watch(lambda e, name=name: told(**{name: e.new}), "value")
        for name in ("elements", "contains", "excludes"):
            widget = getattr(self, name)
            widget.param.watch(lambda e, name=name: told(**{name: e.new.strip()}), "value")
        self.threshold.param.watch(
            lambda e: told(threshold=None if e.new == THRESHOLD else _float(e.new)), "value"
        )
        for widget in (self.column_x, self.row_y):
            widget.param.watch(lambda _: told(**self._centre()), "value")
        self.automatic.on_click(lambda _: told(centre=None))
        self.regions.param.watch(lambda e: told(regions=regions_of(e.new)), "value")
        self.mouse.param.watch(lambda e: locked(lambda: mouse(e.new)), "value")

    def _centre(self) -> dict[str, Any]:
        x, y = self.column_x.value, self.row_y.value
        return {} if x is None or y is None else {"centre": (round(x, 2), round(y, 2))}

    def _laid_out(self) -> pn.Column:
        def titled(title: str, *widgets: Any) -> pn.Column:
            head = pn.pane.HTML(f"<h2>{title}</h2>", stylesheets=[SHEET])
            return pn.Column(head, *widgets, styles=BOX, width=304, margin=(0, 0, 10, 0))

        return pn.Column(
            titled("Pattern", self.drop, self.example, self.file),
            titled("What is known", self.elements, pn.pane.Bokeh(self.table.figure),
                   self.contains, self.excludes),
            titled(
                "Image", pn.Row(self.scale, self.energy),
                pn.Row(self.threshold, self.scale_error), pn.Row(self.column_x, self.row_y),
                self.automatic, self.beam_stop, self.undistort, self.mouse, self.regions,
            ),
            width=312,
        )  # fmt: skip

    def fill(self) -> None:
        """Show what is set."""
        asked, session = self._session.asked, self._session
        self._filling = True
        try:
            self.energy.value, self.scale_error.value = asked.energy, asked.scale_error
            if asked.scale is not None:
                self.scale.value = asked.scale
            if asked.centre is not None:
                self.column_x.value, self.row_y.value = asked.centre
            self.threshold.value = THRESHOLD if asked.threshold is None else asked.threshold
            self.undistort.value, self.beam_stop.value = asked.undistort, asked.beam_stop
            for name in ("elements", "contains", "excludes"):
                getattr(self, name).value = getattr(asked, name)
            locked(lambda: self.table.show(_symbols(asked.elements)))
            self.regions.value = "\n".join(
                " ".join(f"{x:g},{y:g}" for x, y in region) for region in session.regions
            )
            names = session.folder.patterns()
            self.file.options = [_NOTHING, *names]
            self.file.value = asked.path if asked.path in names else _NOTHING
            for widget in (self.threshold, self.column_x, self.row_y, self.automatic,
                           self.undistort, self.beam_stop, self.mouse, self.regions):  # fmt: skip
                widget.disabled = not asked.image
        finally:
            self._filling = False

    def show(self, seen: Seen) -> None:
        """Show what was found where nothing is set: scale, energy and centre."""
        self._filling = True
        try:
            asked, measured = self._session.asked, seen.measured
            if measured is not None:
                self.column_x.value, self.row_y.value = (
                    round(float(x), 2) for x in measured.spots.centre
                )
                if asked.scale is None:
                    scale = measured.mapping.scale
                    self.scale.value = float(scale if not hasattr(scale, "mean") else scale.mean())
                if asked.energy is None:
                    self.energy.value = measured.image.energy
            elif seen.pattern is not None and asked.energy is None:
                energy = seen.pattern.energy
                self.energy.value = None if energy is None else float(energy)
        finally:
            self._filling = False


def regions_of(text: str) -> tuple[Region, ...]:
    """Polygons of three corners at least from lines of "column,row column,row ..."; else ()."""
    out = []
    for line in text.splitlines():
        numbers = re.findall(r"(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)", line)
        if len(numbers) > 2:
            out.append(tuple((float(x), float(y)) for x, y in numbers))
    return tuple(out)


def _float(value: float | None) -> float | None:
    """Browsers send whole numbers as such; commands are to be alike."""
    return None if value is None else float(value)


def _symbols(elements: str) -> list[str]:
    """As far as they are understood: what is wrong with the others is said by the search."""
    try:
        return element_symbols(elements)
    except ValueError:
        return []
