"""Chromium without a window, driven through its own debugging pipe: no further package."""

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


class Browser:
    """One page; `complaints` holds what the browser found wrong with it."""

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
        page = self._send("Target.createTarget", url="about:blank")["targetId"]
        session = self._send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._send(f"{domain}.enable")

    _session = None

    def _send(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
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
                self.complaints.append(entry["text"])

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

    def ask(self, code):
        """The value of an expression in the page."""
        answer = self._send("Runtime.evaluate", expression=code, returnByValue=True,
                            awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, code, seconds=20):
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(code):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.05)

    def press(self, key):
        """A key, as a person presses it."""
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, text=text)

    def size(self, width):
        """A window of this width, pixels."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=800,
                   deviceScaleFactor=1, mobile=False)  # fmt: skip

    def close(self):
        """End the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._read)
        os.close(self._write)
