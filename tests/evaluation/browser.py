"""A headless Chromium with its network off, driven over a pipe: what a page says, how wide it is, how it looks."""

from __future__ import annotations

import base64
import json
import os
import select
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
ERRORS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Browser:
    """One page of a Chromium that ends with the `with` block."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        inward, self._out = os.pipe()
        self._in, outward = os.pipe()
        command = f"{CHROMIUM} {FLAGS} --user-data-dir={shlex.quote(str(profile))} about:blank 3<&{inward} 4>&{outward}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(["bash", "-c", f"exec {command}"], pass_fds=(inward, outward), **quiet)
        os.close(inward)
        os.close(outward)
        self._held, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready = select.select([self._in], [], [], 60)[0]
            found = os.read(self._in, 1 << 16) if ready else b""
            if not found:
                raise RuntimeError("Chromium ended or says nothing")
            self._held += found
        message, self._held = self._held.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol; events that come meanwhile are kept."""
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        told = {"id": self._count, "method": method, "params": parameters, **session}
        os.write(self._out, json.dumps(told).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, page: Path, width: int, dark: bool = False) -> None:
        """Show a file in a window of this width and wait until it is there with all its pictures."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def errors(self) -> list[dict[str, Any]]:
        """What the page had to say to the console, and what broke."""
        return [event for event in self.events if event["method"] in ERRORS]

    def requests(self) -> Sequence[str]:
        """What it asked for that is not within it."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "file:"))]

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(found["data"]))
