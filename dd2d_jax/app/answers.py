"""Candidates beside their pattern: chosen, laid over it, blinked, turned in three dimensions."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import panel as pn

from dd2d_jax.app.locked import locked
from dd2d_jax.app.style import SHEET
from dd2d_jax.app.view import BOTH, FOUND, LAYERS, LOST, OTHERS, View
from dd2d_jax.crystals.cell import cell
from dd2d_jax.reports.comparison import predict
from dd2d_jax.reports.conclusion import conclusion
from dd2d_jax.reports.solid_page import solid_frame
from dd2d_jax.reports.tables import lattice_heading, not_in_library, origin, undetermined
from dd2d_jax.util import text

if TYPE_CHECKING:
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.matching.found import Candidate, Found

# Half a period of blinking, ms.
_BLINK = 500
_ASKED = "Which crystal made this pattern?"
# Height of a structure, pixels.
_SOLID = 340
_BLINKS = f"""
clearInterval(window.dd2dBlinks);
if (cb_obj.active ?? cb_obj.value) {{
  window.dd2dBlinks = setInterval(() => {{ rings.visible = !rings.visible; }}, {_BLINK});
}} else {{ rings.visible = true; }}
"""


class Answers:
    """Widgets that show what was found on a `View`; see `show`."""

    def __init__(self, view: View):
        self.view = view
        self._found: Found | None = None
        self._measured: Measured | None = None
        sheet = {"stylesheets": [SHEET]}
        self.conclusion = pn.pane.HTML(f"<h1>{_ASKED}</h1>", css_classes=["conclusion"], **sheet)
        self.lattices = pn.widgets.RadioButtonGroup(
            label="Lattice", orientation="vertical", visible=False, width=370, **sheet
        )
        self.candidates = pn.widgets.RadioBoxGroup(
            label="Candidates", options=[], css_classes=["candidates"], **sheet
        )
        self.about = pn.pane.HTML("", css_classes=["about"], **sheet)
        self.solid = pn.pane.HTML("", width=370, height=_SOLID)
        self.layers = pn.widgets.CheckBoxGroup(
            label="Layers", options={what: name for name, what in LAYERS.items()},
            value=list(LAYERS), inline=True, **sheet,
        )  # fmt: skip
        self.blink = pn.widgets.Toggle(label="Blink", width=80, **sheet)
        self.blink.jscallback(value=_BLINKS, args={"rings": view.layers["predicted"][0]})
        self._quiet = False
        self.candidates.param.watch(lambda _: self._quiet or self._draw(), "value")
        self.lattices.param.watch(lambda _: self._quiet or self._list(), "value")
        self.layers.param.watch(
            lambda event: locked(lambda: view.switch(event.new), self._pane), "value"
        )
        self._pane = pn.pane.Bokeh(view.figure, sizing_mode="scale_width", aspect_ratio=1)
        self.picture = pn.Column(
            self._pane,
            pn.Row(self.layers, self.blink),
            pn.pane.HTML(_LEGEND, css_classes=["legend"], **sheet),
            sizing_mode="stretch_width",
        )
        self.column = pn.Column(
            self.lattices, self.candidates, self.about, self.solid, sizing_mode="stretch_width"
        )

    def show(self, found: Found | None, measured: Measured | None = None) -> None:
        """Put these in place of those before; None: there are none."""
        self._found, self._measured = found, measured
        every = () if found is None else (found, *found.others)
        names = [lattice_heading(found, i) for i in range(len(every))]
        self._quiet = True
        self.lattices.param.update(
            options={name: i for i, name in enumerate(names)}, value=0 if names else None,
            visible=len(every) > 1,
        )  # fmt: skip
        self._quiet = False
        self._list()

    def _one(self) -> Found | None:
        if self._found is None:
            return None
        return (self._found, *self._found.others)[self.lattices.value or 0]

    def _list(self) -> None:
        found = self._one()
        line = _ASKED if found is None else conclusion(found)
        self.conclusion.object = f"<h1>{escape(line)}</h1>"
        options = {} if found is None else {_line(i, c): i for i, c in enumerate(found)}
        quiet, self._quiet = self._quiet, True
        self.candidates.param.update(options=options, value=0 if options else None)
        self._quiet = quiet
        self._draw()

    def _draw(self) -> None:
        found, row = self._one(), self.candidates.value
        if found is None or row is None or row >= len(found):
            locked(lambda: self.view.show_predicted(None, None, None), self._pane)
            self.about.object = self.solid.object = ""
            return
        candidate = found[row]
        predicted = predict(candidate, found.indexed, self._measured, found.energy)
        measured = self._measured
        locked(
            lambda: self.view.show_predicted(predicted, found.indexed, measured), self._pane
        )
        self.about.object = _about(candidate, found)
        self.solid.object = solid_frame(candidate, _SOLID)


def show(found: Found, measured: Measured | None = None) -> pn.viewable.Viewable:
    """What was found, alive in a notebook: candidates over their pattern, structures that turn."""
    pn.extension(inline=True)  # scripts are put into the notebook
    view = View()
    if measured is None:
        view.show_spots(None, [found.indexed], found.indexed.q)
    else:
        view.show_image(measured.image, measured)
        view.show_spots(measured, [one.indexed for one in (found, *found.others)])
    answers = Answers(view)
    answers.show(found, measured)
    return pn.Column(
        answers.conclusion,
        pn.Row(pn.Column(answers.picture, width=520), pn.Column(answers.column, width=380)),
    )


def _line(row: int, candidate: Candidate) -> str:
    """Of the list of candidates: no two are alike."""
    parts = [
        f"{row + 1}. {text.printable(candidate.formula)}",
        f"{text.percent(candidate.probability)} %",
        origin(candidate),
        f"R1 {text.number(candidate.r_factor, 3)}",
    ]
    return " · ".join(parts)


def _about(candidate: Candidate, found: Found) -> str:
    """What a line has no room for."""
    a, b, gamma = cell(candidate.structure.cell.array[:2, :2])
    facts = [
        text.printable(candidate.uid), text.printable(candidate.prototype),
        f"{a:.3f} × {b:.3f} Å, {gamma:.1f}°",
        f"B {text.number(candidate.b_iso, 2)} Å²",
    ]  # fmt: skip
    if candidate.r_before != candidate.r_factor:
        change = text.change(candidate.r_before, candidate.r_factor)
        facts.append(f"R1 {change.replace('->', '→')} by refinement")
    if candidate.superlattice:
        facts.append(f"with a weak {candidate.superlattice} superlattice")
    if candidate.stacked:
        facts.append("as a stack of shifted layers")
    if candidate.flake:
        facts.append(f"as {candidate.flake}")
    if candidate.leans:
        facts.append(f"tilted by {candidate.leans:.1f}°")
    lines = [" · ".join(filter(None, facts)), not_in_library(found)]
    if candidate.undetermined:
        lines += undetermined([candidate])
    return "<br>".join(escape(line) for line in lines)


def _key(colour: str, what: str, dash: str = "solid") -> str:
    return (
        f'<span class="key"><i style="border: 2px {dash} {colour}"></i>{what}</span>'
    )


_LEGEND = "".join(
    [
        _key(FOUND, "found"), _key(OTHERS, "found, on no lattice"),
        _key(BOTH, "predicted and found"), _key(LOST, "predicted, not found"),
        _key(BOTH, "predicted where nothing is measured", "dotted"),
    ]
)  # fmt: skip
