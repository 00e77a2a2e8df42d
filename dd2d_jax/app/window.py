"""The window: widgets around a `Session`; what takes time happens in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import escape
from typing import Any

import numpy as np
import panel as pn

from dd2d_jax.app.answers import Answers
from dd2d_jax.app.controls import Controls
from dd2d_jax.app.session import Session
from dd2d_jax.app.style import BOX, SHEET
from dd2d_jax.app.view import View
from dd2d_jax.util.errors import UserError
from dd2d_jax.util.progress import telling

# One pattern at a time is computed, whichever window asked: there are few cores.
_worker = ThreadPoolExecutor(1, "dd2d")


class Window:
    """One browser tab.

    Attributes:
        session: what it knows.
        layout: what the browser shows.
    """

    def __init__(self, session: Session):
        self.session = session
        self._document = pn.state.curdoc
        self._turn = 0
        self.view = View(
            lambda x, y: self._change(centre=(round(x, 2), round(y, 2))),
            lambda region: self._change(regions=(*session.regions, region)),
        )
        self.answers = Answers(self.view)
        self.controls = Controls(session, self._change, self._open, self.view.mouse)
        self.status = pn.pane.HTML(
            "Drop an image or a list of spots, or open an example.", css_classes=["status"],
            stylesheets=[SHEET], sizing_mode="stretch_width",
        )  # fmt: skip
        buttons = {"stylesheets": [SHEET], "disabled": True, "sizing_mode": "stretch_width"}
        self.refine = pn.widgets.Button(
            label="Refine", description="fit cell, atoms and B of these candidates", **buttons
        )
        self.propose = pn.widgets.Button(
            label="Propose others", description="crystals that the library does not hold", **buttons
        )
        self.save = pn.widgets.Button(label="Save report", color="primary", **buttons)
        self.command = pn.widgets.Button(label="Copy as command", **buttons)
        self.python = pn.widgets.Button(label="Copy as Python", **buttons)
        self.recipe = pn.widgets.TextAreaInput(
            label="Command or Python", visible=False, auto_grow=True, stylesheets=[SHEET],
            sizing_mode="stretch_width",
        )  # fmt: skip
        # Where the browser forbids it, the text is there to be copied by hand.
        self.recipe.jscallback(value="navigator.clipboard?.writeText(cb_obj.value).catch(() => {})")
        self.refine.on_click(lambda _: self._change(refine=True))
        self.propose.on_click(
            lambda _: self._change(propose=True, refine=self._asked("refine"))
        )
        self.save.on_click(lambda _: self._told(self._save))
        self.command.on_click(lambda _: self._copy("command"))
        self.python.on_click(lambda _: self._copy("python"))
        self.layout = self._laid_out()

    def _laid_out(self) -> pn.viewable.Viewable:
        right = pn.Column(
            pn.Row(self.refine, self.propose, sizing_mode="stretch_width"),
            self.answers.column,
            self.save,
            pn.Row(self.command, self.python, sizing_mode="stretch_width"),
            self.recipe,
            width=392, styles=BOX,
        )  # fmt: skip
        middle = pn.Column(
            self.answers.conclusion, self.status, self.answers.picture,
            sizing_mode="stretch_width", min_width=320, max_width=880, margin=(0, 12),
        )  # fmt: skip
        return pn.Row(self.controls.column, middle, right, sizing_mode="stretch_width")

    def open(self, name: str, **options: Any) -> None:
        """Begin with a file as `dd2d app` was given it, and options of `Asked`."""
        self._open(lambda: self.session.open(name, **options))

    def _asked(self, name: str) -> Any:
        return getattr(self.session.asked, name, None)

    def _open(self, how: Callable[..., None], *args: Any) -> None:
        def opened() -> None:
            how(*args)
            self.controls.fill()
            self._go()

        self._told(opened)

    def _change(self, **options: Any) -> None:
        def changed() -> None:
            if self.session.change(**options):
                self.controls.fill()
                self._go()

        self._told(changed)

    def _told(self, action: Callable[[], None]) -> None:
        """Do something; what was wrong with it is said in the window."""
        try:
            action()
        except (ValueError, OSError, RuntimeError, UserError) as error:
            self._say(str(error), "problem")

    def _say(self, line: str, kind: str = "status") -> None:
        self.status.object = f'<span role="status" class="{kind}">{escape(line)}</span>'

    def _go(self) -> None:
        """Everything again from what is set: in the thread, drawn as far as it came."""
        self._turn += 1
        turn = self._turn
        self.answers.show(None)
        self._able(False)
        if self._document is None or self._document.session_context is None:
            self._work(turn, lambda draw: draw())
        else:
            _worker.submit(self._work, turn, self._document.add_next_tick_callback)

    def _work(self, turn: int, later: Callable[[Callable[[], None]], Any]) -> None:
        def step(draw: Callable[[], None]) -> None:
            later(lambda: draw() if turn == self._turn else None)

        def said(line: str) -> None:
            step(lambda: self._say(f"{line} …", "busy"))

        if turn != self._turn:
            return
        try:
            with telling(said):
                self.session.look()
                step(self._draw_spots)
                if turn == self._turn:
                    self.session.search()
            step(self._draw_found)
        except Exception as error:  # a thread's errors would be seen by nobody
            line = f"{type(error).__name__}: {error}"
            step(lambda: self._say(line, "problem"))

    def _draw_spots(self) -> None:
        seen = self.session.seen
        q = None
        if seen.pattern is not None:
            q = np.asarray(seen.pattern.q, float)[np.asarray(seen.pattern.mask, bool)]
        self.view.show_image(seen.image, seen.measured)
        self.view.show_spots(seen.measured, seen.lattices, q)
        self.view.show_regions(self.session.regions)
        self.controls.show(seen)

    def _draw_found(self) -> None:
        session = self.session
        self.answers.show(session.found, session.seen.measured)
        self._able(session.found is not None)
        if session.seen.problem:
            self._say(session.seen.problem, "problem")
        else:
            self._say("; ".join(session.seen.notes) or session.asked.name)

    def _able(self, found: bool) -> None:
        for one in (self.refine, self.propose, self.save):
            one.disabled = not found
        self.command.disabled = self.python.disabled = self.session.asked is None

    def _save(self) -> None:
        self._say(f"Saved {self.session.page()}", "saved")

    def _copy(self, what: str) -> None:
        text = getattr(self.session.asked, what)()
        # The same text twice would be no change, and not be copied.
        self.recipe.param.update(value="", visible=True)
        self.recipe.value = text
        self._say("Copied, and shown at the bottom right.", "saved")
