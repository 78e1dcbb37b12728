"""A headless Chromium with WebGL, controlled through its DevTools pipe, without a port or another package."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for found in map(shutil.which, _NAMES) if found), None)
_OPTIONS = (
    "--headless --no-sandbox --no-first-run --remote-debugging-pipe --hide-scrollbars --use-angle=swiftshader"
    " --enable-unsafe-swiftshader --disable-background-networking --disable-component-update --disable-sync"
    " --disable-dev-shm-usage --mute-audio"
).split()
# Chromium reads commands from descriptor 3 and writes answers to 4, which a shell script may pass on.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);os.execv(sys.argv[3], sys.argv[3:])"
)
_FRAMES = "new Promise(r => { let n = 4; const next = () => n-- ? requestAnimationFrame(next) : r(1); next(); })"


class Browser:
    """One page; `with` ends the process.

    Attributes:
      problems: errors and warnings of the console and uncaught exceptions.
      requests: requested addresses, without data: addresses.
    """

    def __init__(self, profile):
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        arguments = [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        # Above 4, so that duplicating one descriptor does not close the other.
        inherited = [os.dup(fd) for fd in (commands, answers)]
        while min(inherited) <= 4:
            inherited = [os.dup(fd) for fd in inherited]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, inherited), *arguments],
            pass_fds=inherited,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (commands, answers, *inherited):
            os.close(fd)
        self._buffer, self._number, self._session = b"", 0, None
        self.problems, self.requests = [], []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.colour_scheme("light")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = None
        try:
            self.call("Browser.close")
        except (ConnectionError, TimeoutError):
            pass
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method, timeout=90, **parameters):
        """Sends a DevTools command and returns its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._message(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._record(answer)

    def _message(self, deadline):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer.")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise ConnectionError("Chromium has ended.")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _record(self, event):
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(a.get("value", a)) for a in parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.problems.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            if not address.startswith("data:"):
                self.requests.append(address)

    def run(self, expression):
        """The value of a JavaScript expression; awaits promises."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width, height, mobile=False, scale=1):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=mobile, deviceScaleFactor=scale
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def colour_scheme(self, value):
        """Sets "light" or "dark"; motion is always reduced, so that a screenshot is final."""
        features = {"prefers-color-scheme": value, "prefers-reduced-motion": "reduce"}
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()]
        )

    def open(self, path):
        """Loads a file and waits for its load event."""
        self.problems, self.requests = [], []
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.as_uri())
        self.run("document.readyState === 'complete' || new Promise(r => addEventListener('load', r)).then(() => 1)")

    def settle(self):
        """Waits until the next frames are drawn."""
        self.run(_FRAMES)

    def box(self, selector):
        """[x, y, width, height] of an element, CSS pixels of the window."""
        return self.run(
            f"(b => [b.x, b.y, b.width, b.height])(document.querySelector({selector!r}).getBoundingClientRect())"
        )

    def picture(self, selector=None):
        """A screenshot of the window or of one element in it, BGR uint8."""
        clip = {}
        if selector:
            x, y, width, height = self.box(selector)
            left, top = self.run("[scrollX, scrollY]")
            area = {"x": x + left, "y": y + top, "width": width, "height": height, "scale": 1}
            clip = {"clip": area}
        data = self.call("Page.captureScreenshot", format="png", **clip)["data"]
        return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)

    def click(self, selector):
        x, y, width, height = self.box(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x + width / 2, y + height / 2)

    def mouse(self, kind, x, y):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)
