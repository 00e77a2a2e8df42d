"""Chromium without a window, driven through its own debugging pipe: no further package."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Software graphics, so that 3D is drawn wherever the tests run; no sandbox, as in containers.
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--no-first-run", "--disable-background-networking",
    "--remote-debugging-pipe", "--window-size=1280,1000",
)  # fmt: skip


# Keys that do more than write a letter, and their codes.
_KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27, "End": 35, "Home": 36, "ArrowUp": 38,
         "ArrowDown": 40, "Backspace": 8}  # fmt: skip
# All elements, those in shadows of others included, that fit a selector.
_DEEP = """
window.deep = (selector, root = document) => [...root.querySelectorAll('*')].flatMap(one => [
  ...(one.matches(selector) ? [one] : []),
  ...(one.shadowRoot ? deep(selector, one.shadowRoot) : []),
]);
window.within = (host, selector) =>
  deep(host).flatMap(one => (one.shadowRoot ? deep(selector, one.shadowRoot) : []));
window.focused = () => {
  let one = document.activeElement;
  while (one && one.shadowRoot && one.shadowRoot.activeElement) one = one.shadowRoot.activeElement;
  return one;
};
"""


class Browser:
    """One page; `complaints` holds what the browser found wrong with it, `loaded` what it asked for
    elsewhere.
    """

    def __init__(self, folder):
        name = next(filter(None, map(shutil.which, _NAMES)), None)
        if name is None:
            pytest.skip("Chromium is not installed (apt-get install chromium)")
        (read, its_write), (its_read, write) = os.pipe(), os.pipe()
        # Out of the way of 3 and 4, where Chromium reads commands and writes answers.
        away = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (its_read, its_write)]
        # Python in between, since a fork of this process could lock up: it has threads.
        start = (
            f"import os, sys; os.dup2({away[0]}, 3); os.dup2({away[1]}, 4); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [name, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, *command],
            pass_fds=away, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (its_read, its_write, *away):
            os.close(end)
        self._read, self._write, self._buffer = read, write, b""
        self._numbers, self.complaints, self._events = itertools.count(1), [], []
        self.loaded = []
        page = self._send("Target.createTarget", url="about:blank")["targetId"]
        session = self._send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._send(f"{domain}.enable")

    _session = None

    def _send(self, method, **parameters):
        return self._answer(self._post(method, **parameters))

    def _post(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return number

    def _answer(self, number):
        while True:
            answer = self._receive(60)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self, seconds):
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            assert left > 0 and select.select([self._read], [], [], left)[0], "no answer"
            data = os.read(self._read, 65536)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        self._events.append(event.get("method"))
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            if entry["level"] == "error":
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}".strip())
        if event.get("method") == "Network.requestWillBeSent":
            self.loaded.append(event["params"]["request"]["url"])

    def open(self, path, scripts=True):
        """Load a file and return the seconds of work that this was, whatever else is running."""
        self._send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._events.clear()
        self.complaints.clear()
        self._send("Performance.enable", timeDomain="threadTicks")
        self._send("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(self._receive(60))
        found = {m["name"]: m["value"] for m in self._send("Performance.getMetrics")["metrics"]}
        self._send("Performance.disable")
        return found["TaskDuration"]

    def visit(self, address):
        """Load a page of a server; `deep(selector)` and `focused()` then look into shadows."""
        self._events.clear()
        self.complaints.clear()
        self._send("Network.enable")
        self._send("Page.navigate", url=address)
        while "Page.loadEventFired" not in self._events:
            self._note(self._receive(60))
        self.ask(_DEEP)

    def drop(self, path, selector):
        """A file onto an element, as from a folder's window."""
        x, y = self.ask(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(deep({json.dumps(selector)})[0].getBoundingClientRect())"
        )
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def drag(self, places):
        """The mouse pressed at the first of these places (x, y), moved along and let go."""
        last = None
        for i, (x, y) in enumerate([*places, places[-1]]):
            kind = "mouseReleased" if i == len(places) else "mouseMoved" if i else "mousePressed"
            if i > 1:
                # The browser tells a page of one place per frame. Not waited for before the first
                # move: who rests then presses, and does not drag.
                time.sleep(0.1)
            last = self._post("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                              buttons=int(i < len(places)), clickCount=1)  # fmt: skip
        self._answer(last)

    def picture(self, path):
        """What is seen, as a PNG."""
        data = self._send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def ask(self, code):
        """The value of an expression in the page."""
        answer = self._send("Runtime.evaluate", expression=code, returnByValue=True,
                            awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, code, seconds=60):
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(code):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.05)

    def press(self, key):
        """A key, as a person presses it."""
        text = key if len(key) == 1 else "\r" if key == "Enter" else ""
        code = _KEYS.get(key, ord(key.upper()) if key.isalnum() and len(key) == 1 else 0)
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, text=text,
                       windowsVirtualKeyCode=code)  # fmt: skip

    def type(self, text):
        """Key after key."""
        for key in text:
            self.press(key)

    def size(self, width):
        """A window of this width, pixels."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=800,
                   deviceScaleFactor=1, mobile=False)  # fmt: skip
        # Drawn so before anything is measured.
        self.wait(f"innerWidth == {width}")
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def close(self):
        """End the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._read)
        os.close(self._write)
