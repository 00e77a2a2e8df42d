"""HTML pages of one file, from the templates beside: nothing is loaded, texts are escaped.

Scripts and styles stand in the page and are allowed by their hashes alone: what gets into a page
by way of a stranger's file would not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from dd2d_jax import __version__
from dd2d_jax.util.text import printable

_HERE = Path(__file__).parent
# Signs beyond which a column of text may be broken anywhere.
_LONG = 24


@dataclasses.dataclass(frozen=True)
class Link:
    """A link in a table; with `download` the browser saves the target under that name."""

    text: str
    target: str
    download: str | None = None


def render(template: str, title: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """A whole page.

    Args:
        template: name of a file in `templates`, which extends base.html.
        title: plain text.
        scripts: further scripts by their names in `static` or `templates`, in order.
        values: what the template names; texts are plain and become HTML there.
    """
    style = _file("page.css")
    code = [_file(name) for name in (*scripts, "page.js")]
    policy = {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "style-src": [_hash(style)],
        "script-src": [_hash(text) for text in code],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return _environment().get_template(template).render(
        title=title,
        policy="; ".join(f"{name} {' '.join(allowed)}" for name, allowed in policy.items()),
        style=Markup(style),
        scripts=[Markup(text) for text in code],
        licence=_file("3Dmol-LICENSE.txt") if "3Dmol-min.js" in scripts else "",
        version=__version__,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        **values,
    )  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    made.filters["chemical"] = _chemical
    made.tests["link"] = lambda value: isinstance(value, Link)
    return made


def _plain(value: Any) -> Any:
    """Control characters of files reach no page."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _chemical(formula: str) -> Markup:
    """A formula with its numbers below the line; other signs as they are."""
    plain = str(escape(printable(formula)))
    return Markup(re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", plain))


@functools.cache
def _file(name: str) -> str:
    """The text of a style, script or licence, as it is put into pages."""
    place = next(p for folder in ("templates", "static") if (p := _HERE / folder / name).is_file())
    text = place.read_text("utf-8")
    # Such an end would end the element around it.
    if name.endswith((".js", ".css")) and re.search(r"</(script|style)|<!--", text, re.IGNORECASE):
        raise ValueError(f"{place}: holds the end of an element")
    return text


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def data_link(data: bytes, kind: str) -> str:
    """A link that holds its file, of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    aside: Sequence[int] = (),
    bold: Sequence[int] = (),
    sortable: bool = True,
) -> dict[str, Any]:
    """What the macro `table` draws: numbers to the right; rows in `aside` are set back.

    Cells are plain text, numbers or a `Link`.
    """
    kinds = [_kind([row[i] for row in rows]) for i in range(len(head))]
    marks = ["aside" if i in aside else "bold" if i in bold else "" for i in range(len(rows))]
    return {
        "caption": caption,
        "head": list(zip(head, kinds, strict=True)),
        "rows": [(mark, list(zip(row, kinds, strict=True)))
                 for mark, row in zip(marks, rows, strict=True)],
        "wide": len(head) > 10,
        "sortable": sortable and len(rows) > 1 and any(head),
    }  # fmt: skip


def _kind(column: Sequence[Any]) -> str:
    if column and all(_is_number(cell) for cell in column):
        return "number"
    return "long" if max(map(_width, column), default=0) > _LONG else ""


def _width(cell: Any) -> int:
    return 0 if isinstance(cell, Link) else len(str(cell))


def _is_number(cell: Any) -> bool:
    """Also several numbers, an empty cell, a dash, and a number with a mark or a limit."""
    if isinstance(cell, Link):
        return False
    words = re.sub("[★,<>→%±−]", " ", str(cell).replace(",", "")).split()
    try:
        [float(word) for word in words if word not in ("-", "–")]
    except ValueError:
        return False
    return True
