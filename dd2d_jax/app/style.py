"""How the window looks. Every widget of panel has a style of its own: these are given to each."""

_COLOURS = """
  --ink: #1d2127; --soft: #565d68; --line: #c9ced6; --panel: #f5f6f8; --link: #0b5cad;
  --warn: #8a3b00;
"""
SHEET = (
    ":host {" + _COLOURS + " font-size: 14px; color: var(--ink); }"
    """
:host, :host * { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 21px; font-weight: 500; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; font-weight: 600; margin: 0; }
label { color: var(--ink); }
:host(.about) { font-size: 13px; color: var(--soft); }
.problem { color: var(--warn); font-weight: 600; overflow-wrap: anywhere; }
.saved { color: var(--link); }
.busy { color: var(--soft); }
.busy::before {
  content: ""; display: inline-block; width: 9px; height: 9px; margin-right: 7px;
  border: 2px solid var(--line); border-top-color: var(--link); border-radius: 50%;
  animation: turn 0.9s linear infinite;
}
@keyframes turn { to { transform: rotate(360deg); } }
@media (prefers-reduced-motion: reduce) { .busy::before { animation: none; } }
.key { display: inline-block; margin-right: 14px; font-size: 13px; color: var(--soft); }
.key i { display: inline-block; width: 8px; height: 8px; border-radius: 50%; margin-right: 5px; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 1px; }
"""
)
# Of groups of widgets.
BOX = {"background": "#f5f6f8", "border-radius": "8px", "padding": "6px 4px 8px"}
# Of the page around them.
PAGE = "body { background: #ffffff; margin: 8px 12px; }"
