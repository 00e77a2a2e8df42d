"""The periodic table as a picture whose elements are chosen by a click."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ase.data import chemical_symbols
from bokeh.models import ColumnDataSource, HoverTool, TapTool
from bokeh.plotting import figure

# Form factors go no further.
_HEAVIEST = 103


def place(number: int) -> tuple[float, float]:
    """Column and row of an element, 1 to 18 and 1 to 7; lanthanides and actinides 8.5 and 9.5."""
    for row, (first, last) in enumerate([(57, 71), (89, 103)]):
        if first <= number <= last:
            return number - first + 3.0, 8.5 + row
    starts = (1, 3, 11, 19, 37, 55, 87)
    row = max(i for i, start in enumerate(starts) if start <= number)
    column = number - starts[row] + 1
    if number == 2:
        column = 18
    elif row in (1, 2) and column > 2:
        column += 10
    elif row > 4 and column > 2:
        column -= 14
    return float(column), row + 1.0


class PeriodicTable:
    """A figure; `chosen` is told the symbols whenever they are others."""

    def __init__(self, chosen: Callable[[list[str]], None]):
        self._symbols = chemical_symbols[1 : _HEAVIEST + 1]
        columns, rows = zip(*(place(z) for z in range(1, _HEAVIEST + 1)), strict=True)
        self._source = ColumnDataSource({"x": columns, "y": rows, "symbol": self._symbols})
        self._showing = False
        self.figure = figure(
            width=284, height=172, x_range=(0.4, 18.6), y_range=(10.1, 0.4), tools="",
            toolbar_location=None, outline_line_color=None, min_border=0,
            background_fill_color=None, border_fill_color=None,
        )  # fmt: skip
        self.figure.axis.visible = self.figure.grid.visible = False
        cells = self.figure.rect(
            "x", "y", 0.96, 0.96, source=self._source, line_color=None, fill_color="#e4e7ec",
            selection_fill_color="#9cc7ee", nonselection_fill_color="#e4e7ec",
            nonselection_fill_alpha=1,
        )  # fmt: skip
        self.figure.text(
            "x", "y", "symbol", source=self._source, text_align="center", text_baseline="middle",
            text_font_size="8px", text_color="#1d2127",
        )  # fmt: skip
        self.figure.add_tools(
            TapTool(mode="xor", renderers=[cells]),
            HoverTool(renderers=[cells], tooltips="@symbol"),
        )

        def told(attr: str, old: list[int], new: list[int]) -> None:
            if not self._showing:
                chosen([self._symbols[i] for i in sorted(new)])

        self._source.selected.on_change("indices", told)

    def show(self, symbols: Sequence[str]) -> None:
        """Mark these."""
        self._showing = True
        self._source.selected.indices = [
            i for i, symbol in enumerate(self._symbols) if symbol in symbols
        ]
        self._showing = False
