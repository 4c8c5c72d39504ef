"""A headless Chromium, asked over its debugging protocol: what a page looks like, and what it loads."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tornado.httpclient import HTTPClient
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def executable():
    """Where a Chromium is installed, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def opened(path):
    """A page of a Chromium of our own, with this file in it."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")
        process = subprocess.Popen(
            (executable(), *flags, f"--user-data-dir={profile}", "about:blank"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        loop = IOLoop(make_current=False)
        try:
            page = Page(loop, _address(Path(profile), process))
            page.open(path)
            yield page
            page.close()
        finally:
            loop.close()
            process.terminate()
            process.wait(timeout=60)


def _address(profile, process):
    deadline = time.monotonic() + 60
    while not (profile / "DevToolsActivePort").exists():
        assert process.poll() is None, "chromium did not start"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    port = (profile / "DevToolsActivePort").read_text().split()[0]
    client = HTTPClient()
    try:
        targets = json.loads(client.fetch(f"http://127.0.0.1:{port}/json").body)
    finally:
        client.close()
    return next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")


class Page:
    """One tab; `requests` are the addresses that it asked for, `problems` what its console says."""

    def __init__(self, loop, address):
        self.loop = loop
        self.requests = []
        self.problems = []
        self._number = 0
        self._socket = loop.run_sync(lambda: websocket_connect(address, max_message_size=1 << 28))
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        """The answer to a command; events on the way are noted."""
        self._number += 1
        self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def _next(self):
        message = json.loads(self.loop.run_sync(self._socket.read_message, timeout=60))
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") == "Log.entryAdded":
            self.problems.append(message["params"]["entry"]["text"])
        return message

    def open(self, path):
        """Load a file and wait for its pictures."""
        self.ask("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + 60
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def show(self, width, *, scheme="light", motion="no-preference"):
        """Take a width in CSS pixels, a colour scheme, and what the user wants to move."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        self.ask(
            "Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()]
        )

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path, *, whole=True):
        """Write what is seen, or all of the page, as PNG."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        """Leave."""
        self._socket.close()
