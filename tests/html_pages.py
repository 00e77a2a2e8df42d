"""What holds of every page: valid, whole, and nothing in it runs or loads but what it allows."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import html5lib


class _Page(HTMLParser):
    """Elements with their attributes, and the texts of scripts and styles."""

    def __init__(self):
        super().__init__()
        self.elements, self.raw, self._open = [], [], None

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._open = (tag, dict(attributes))
            self.raw.append([tag, dict(attributes), ""])

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.raw[-1][2] += data


def check(text: str, beside: tuple[str, ...] = ()) -> list[tuple[str, dict]]:
    """Assert all of it and return the page's elements; links may lead to the files `beside`."""
    html5lib.HTMLParser(strict=True).parse(text)
    page = _Page()
    page.feed(text)
    page.close()
    policy = next(a["content"] for _, a in page.elements
                  if a.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data:"
    for tag, attributes, code in page.raw:
        if attributes.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in allowed[f"{tag}-src"], f"a {tag} that does not run"
    styles = "".join(code for tag, _, code in page.raw if tag == "style")
    assert "url(" not in styles and "@import" not in styles
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names)), "an id twice"
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            target = attributes.get(name)
            if target is None:
                continue
            inside = target.startswith("data:") or target.startswith("#") and target[1:] in names
            assert inside or target in beside, f"{tag} {name}={target[:80]}"
        if tag == "img":
            assert attributes.get("alt")
    return page.elements


def words(text: str) -> str:
    """What a reader sees of a page, without scripts and styles."""
    text = re.sub(r"<(script|style|pre)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", text).split())
