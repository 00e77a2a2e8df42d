"""The window in a real browser: from a dropped file to a saved report, by mouse and by keyboard."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from paths import ROOT

pytest.importorskip("panel", reason="the extra app is not installed")

from tornado.httpclient import HTTPClientError, HTTPRequest  # noqa: E402
from tornado.websocket import websocket_connect  # noqa: E402


@pytest.fixture(scope="module")
def work(made, tmp_path_factory):
    """A working folder; what is dropped comes from elsewhere."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def address(chromium, made, work):
    """Of a window that `dd2d app` serves."""
    line = [sys.executable, "-m", "dd2d_jax.commands.main", "app", "--no-browser"]
    line += ["--library", str(made / "lib"), "--checkpoint", str(made / "run")]
    server = subprocess.Popen(
        line, cwd=work, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    yield server.stderr.readline().strip()
    server.terminate()
    server.wait(20)
    server.stderr.close()


BUTTON = "deep('button').find(e => e.textContent.trim() == '{}')"
SAYS = "deep('.{}').some(e => e.shadowRoot && e.shadowRoot.textContent.includes({!r}))"


def wait_for(chromium, place, text, seconds=180):
    chromium.wait(SAYS.format(place, text), seconds)


def tab_to(chromium, label, most=60):
    """Press Tab until what has the focus is called so."""
    called = (
        "(() => { const e = focused(); const by = e && e.getRootNode().querySelector("
        "'label[for=\"' + e.id + '\"]'); return [e?.ariaLabel, e?.textContent, e?.placeholder, "
        "e?.labels?.[0]?.textContent, by?.textContent, e?.closest?.('.bk-input-group')"
        "?.querySelector('label')?.textContent].join(' '); })()"
    )
    seen = []
    for _ in range(most):
        chromium.press("Tab")
        seen.append(chromium.ask(called))
        if label in seen[-1]:
            return
    raise AssertionError(f"{label} is not reached: {seen}")


def test_a_dropped_image_becomes_a_saved_report(chromium, address, made, work, tmp_path):
    shutil.copy(made / "small.tif", tmp_path / "mine.tif")
    chromium.visit(address)
    chromium.wait("deep('.filepond--drop-label').length > 0")
    chromium.drop(tmp_path / "mine.tif", ".filepond--root")
    wait_for(chromium, "conclusion", "MoS2")
    assert (work / "dd2d-app" / "mine.tif").read_bytes() == (made / "small.tif").read_bytes()
    chromium.wait("within('.candidates', 'input').length > 1")
    chromium.ask("within('.candidates', 'input')[1].click()")
    wait_for(chromium, "about", "WSe2")
    chromium.wait("deep('iframe').length == 1", 180)
    chromium.wait(f"!{BUTTON.format('Save report')}.disabled")
    chromium.ask(BUTTON.format("Save report") + ".click()")
    wait_for(chromium, "status", "dd2d-app/mine.html")
    assert "The crystal is" in (work / "dd2d-app" / "mine.html").read_text("utf-8")
    chromium.ask(BUTTON.format("Copy as command") + ".click()")
    command = "dd2d retrieve dd2d-app/mine.tif"
    chromium.wait(f"deep('textarea').some(e => e.value.startsWith('{command}'))")
    assert [one for one in chromium.complaints if "favicon" not in one] == []


def test_the_mouse_masks_a_region_and_moves_the_centre(chromium, address):
    # The page before, whose image is small.tif of 224 x 224 pixels.
    box = "(r => [r.x, r.y, r.width])(deep('.bk-Figure')[1].getBoundingClientRect())"

    def drag_until(code, *places):
        end = time.monotonic() + 180
        while not chromium.ask(code):
            assert time.monotonic() < end, f"never true: {code}"
            # Structures drawn without a graphics card keep the page busy: a drag becomes a press.
            chromium.ask("deep('iframe').forEach(e => e.remove())")
            x, y, width = chromium.ask(box)
            chromium.drag([(x + u * width, y + v * width) for u, v in places])
            time.sleep(1)

    mode = "Bokeh.documents[0].get_model_by_name('line').tags[0] == '{}'"
    chromium.ask(BUTTON.format("mask a region") + ".click()")
    chromium.wait(mode.format("mask a region"))
    # Of x from near 9 to near 66: three corners in the text that lists the regions.
    corners = [(0.05, 0.05), (0.1, 0.05), (0.3, 0.05), (0.3, 0.3), (0.05, 0.3)]
    square = r"/(^|\s)\d+(\.\d)?,\d+(\.\d)?( 6\d(\.\d)?,\d+(\.\d)?){2}/"
    drag_until(f"deep('textarea').some(e => {square}.test(e.value))", *corners)
    chromium.ask(BUTTON.format("move the centre") + ".click()")
    chromium.wait(mode.format("move the centre"))
    there = "deep('input').some(e => e.value.startsWith('116.'))"
    drag_until(there, (0.5, 0.5), (0.51, 0.49), (0.52, 0.48))


def test_nothing_is_loaded_from_elsewhere(chromium, address):
    host = re.match("http://127.0.0.1:[0-9]+/", address)[0]
    assert len(chromium.loaded) > 10
    allowed = (host, "data:", "blob:", "about:", host.replace("http", "ws"))
    assert [one for one in chromium.loaded if not one.startswith(allowed)] == []


def test_the_keyboard_alone_goes_from_an_example_to_a_saved_report(chromium, address, work):
    chromium.visit(address)
    chromium.wait("deep('select').length > 1")
    tab_to(chromium, "Example")
    chromium.press("M")
    chromium.press("Enter")
    wait_for(chromium, "conclusion", "MoS2")
    tab_to(chromium, "Threshold")
    chromium.press("ArrowUp")
    chromium.press("Enter")
    tab_to(chromium, "Contains none of")
    chromium.type("W")
    chromium.press("Enter")
    chromium.wait(
        "(n => n.length && !n.some(e => e.textContent.includes('W')))"
        "(within('.candidates', 'label'))", 180,
    )  # fmt: skip
    chromium.wait(f"!{BUTTON.format('Save report')}.disabled")
    tab_to(chromium, "Save report")
    chromium.press("Enter")
    wait_for(chromium, "status", "dd2d-app/mos2.html")
    text = (work / "dd2d-app" / "mos2.html").read_text("utf-8")
    assert "--threshold 6.0" in text and "--excludes W" in text


@pytest.mark.parametrize("path", ["/", "/app", "/wrong/app", "/static/js/bokeh.min.js"])
def test_without_its_token_the_server_says_nothing(address, path):
    base = "/".join(address.split("/")[:3])
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(base + path, timeout=10)


def test_other_pages_cannot_speak_to_the_server(address):
    place = address.replace("http", "ws") + "/ws"

    async def ask(origin):
        await websocket_connect(HTTPRequest(place, headers={"Origin": origin}))

    asyncio.run(ask("/".join(address.split("/")[:3])))
    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(ask("http://example.com"))
