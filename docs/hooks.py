"""What mkdocs does besides: formulas become MathML, and the page of the command line its help.

MathML needs no script, which would have to be loaded from somewhere.
"""

from __future__ import annotations

import argparse
import html
import os
import re

from latex2mathml import converter

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_BOLD = re.compile(r'<mi mathvariant="bold">([A-Za-z])</mi>')
_HELP = "<!-- help -->"


def on_page_content(content: str, **_: object) -> str:
    """Replace what `pymdownx.arithmatex` leaves to a script."""

    def formula(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        return _BOLD.sub(bold, converter.convert(html.unescape(match[2]), display=display))

    def bold(match: re.Match) -> str:
        # Browsers know no other variants than by the letters' own code points.
        letter = match[1]
        first = 0x1D400 if letter.isupper() else 0x1D41A
        return f"<mi>&#{first + ord(letter.lower()) - ord('a')};</mi>"

    return _FORMULA.sub(formula, content)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the help of every command where a page asks for it."""
    return markdown.replace(_HELP, command_line_help()) if _HELP in markdown else markdown


def command_line_help() -> str:
    """What `dd2d COMMAND --help` prints, command by command."""
    from dd2d_jax.commands.main import _parser

    os.environ["COLUMNS"] = "80"  # the width that argparse writes for
    parser = _parser()
    (commands,) = (x for x in parser._actions if isinstance(x, argparse._SubParsersAction))
    parts = [f"```text\n{parser.format_help()}```"]
    for name, command in commands.choices.items():
        parts.append(f"## dd2d {name}\n\n```text\n{command.format_help()}```")
    return "\n\n".join(parts)
