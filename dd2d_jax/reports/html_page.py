"""HTML pages of one file: figures inside, nothing loaded, texts from files escaped."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from typing import Any

from dd2d_jax.util.text import printable

# Signs beyond which a column of text may be broken anywhere.
_LONG = 16
_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem;
        font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
.number { text-align: right; } td.number { white-space: nowrap; }
td.long { overflow-wrap: anywhere; }
table.wide { font-size: 0.8rem; } .wide th, .wide td { padding: 0.2rem 0.4rem; }
tr.aside td { color: #666; font-style: italic; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: 0 2rem; } .row figure { flex: 1 1 30rem; }
figcaption { font-size: 0.9rem; color: #444; }
details { font-size: 0.85rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; }
  figure, table { break-inside: avoid; } h2 { break-after: avoid; } img { max-height: 22cm; }
}
"""


class Markup(str):
    """HTML already: `escaped` leaves it as it is."""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page; `title` is plain text, `parts` are HTML."""
    name = escaped(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{name}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join([f"<h1>{name}</h1>", *parts])
        + "\n</body>\n</html>\n"
    )


def escaped(value: Any) -> str:
    """As HTML, whatever signs are in it."""
    return value if isinstance(value, Markup) else html.escape(printable(str(value)))


def link(text: str, target: str, download: str | None = None) -> Markup:
    """A link; with `download` the browser saves the target under that name."""
    saved = "" if download is None else f' download="{escaped(download)}"'
    return Markup(f'<a href="{escaped(target)}"{saved}>{escaped(text)}</a>')


def figure(name: str, data: bytes, kind: str, caption: str) -> str:
    """A figure with its picture inside, of MIME type image/`kind`; `caption` is HTML."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return (
        f'<figure id="{escaped(name)}">\n<img alt="{escaped(name.replace("_", " "))}" '
        f'src="{source}">\n<figcaption>{caption}</figcaption>\n</figure>'
    )


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    aside: Sequence[int] = (),
    bold: Sequence[int] = (),
) -> str:
    """A table, numbers to the right; rows in `aside` are grey, in `bold` bold.

    Cells are plain text, which is escaped, or `Markup`.
    """
    classes = [_class([row[i] for row in rows]) for i in range(len(head))]
    lines = [f"<table{' class=wide' if len(head) > 10 else ''}>"]
    if any(head):
        cells = "".join(f"<th{c}>{escaped(x)}</th>" for c, x in zip(classes, head, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    for number, row in enumerate(rows):
        cells = "".join(f"<td{c}>{escaped(x)}</td>" for c, x in zip(classes, row, strict=True))
        if number in bold:
            cells = cells.replace("<td", '<td style="font-weight: bold"')
        lines.append(f"<tr{' class=aside' if number in aside else ''}>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _class(column: Sequence[Any]) -> str:
    if all(_is_number(cell) for cell in column):
        return ' class="number"'
    return ' class="long"' if max(_width(cell) for cell in column) > _LONG else ""


def _width(cell: Any) -> int:
    return 0 if isinstance(cell, Markup) else len(str(cell))


def _is_number(cell: Any) -> bool:
    """Also several numbers, an empty cell, a dash, and a number with a mark or a limit."""
    if isinstance(cell, Markup):
        return False
    words = re.sub("[★,<>→%]", "", str(cell)).split()
    try:
        [float(word) for word in words if word != "-"]
    except ValueError:
        return False
    return True
