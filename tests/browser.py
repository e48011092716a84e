"""Opens pages in a headless Chromium that draws in software, by its DevTools protocol over a pipe."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ANSWER_SECONDS = 120.0  # a browser that draws in software is slow
REQUIRED = "SACCADE_NEEDS_CHROMIUM"  # set where its absence is a failure


def need_chromium() -> None:
    """Skip the test that calls it where there is no Chromium, but fail where there must be one."""
    if CHROMIUM is None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set and there is no chromium")
        pytest.skip("there is no chromium: apt-get install chromium")


class ChromiumError(RuntimeError):
    """What Chromium answers when it cannot."""


class Page:
    """A page that is open."""

    def __init__(self, to: int, back: int, size: tuple[int, int]) -> None:
        self._to, self._back, self._rest, self._count = to, back, b"", 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        metrics = {"deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], **metrics)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result; events in between are dropped."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._back], [], [], ANSWER_SECONDS)[0], f"chromium does not answer to {method}"
                read = os.read(self._back, 1 << 20)
                assert read, "chromium has ended"
                self._rest += read
            answer, _, self._rest = self._rest.partition(b"\0")
            found = json.loads(answer)
            if found.get("id") == self._count:
                if "error" in found:
                    raise ChromiumError(found["error"]["message"])
                return found["result"]

    def open(self, url: str) -> None:
        """Go to `url` and wait until the page is loaded, and can be drawn."""
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 60
        while True:
            try:
                state = self.call("Runtime.evaluate", expression="location.href + document.readyState")
                if state["result"]["value"].startswith(url) and state["result"]["value"].endswith("complete"):
                    self.picture()
                    return
            except ChromiumError:  # between two pages there is none
                pass
            assert time.monotonic() < deadline, f"{url} does not load"
            time.sleep(0.1)

    def picture(self) -> NDArray[np.uint8]:
        """Return what it shows, (H, W, 3)."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def may_reach(self, url: str) -> str:
        """Return whether the page's policy lets it turn to `url`: `stopped` or `free to go`, whoever is there."""
        code = """new Promise(done => {
            document.addEventListener("securitypolicyviolation", () => done("stopped"));
            const free = () => setTimeout(() => done("free to go"), 500);
            fetch(%s, {mode: "no-cors"}).then(free, free);
        })"""
        answer = self.call("Runtime.evaluate", expression=code % json.dumps(url), awaitPromise=True)
        return answer["result"]["value"]


@contextmanager
def chromium(folder: Path, size: tuple[int, int] = (1600, 1000), *more: str) -> Iterator[Page]:
    """Start a Chromium that keeps its files in `folder`; end it afterwards."""
    assert CHROMIUM is not None
    theirs, to = os.pipe()
    back, answers = os.pipe()

    def as_three_and_four() -> None:  # the numbers that Chromium looks at
        first, second = os.dup(theirs), os.dup(answers)
        os.dup2(first, 3)
        os.dup2(second, 4)

    options = "--headless --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --no-first-run "
    options += "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
    command = [CHROMIUM, *options.split(), "--remote-debugging-pipe", f"--user-data-dir={folder}", *more]
    process = subprocess.Popen(
        command, close_fds=False, preexec_fn=as_three_and_four, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    os.close(answers)
    try:
        yield Page(to, back, size)
    finally:
        os.close(to)
        os.close(back)
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
