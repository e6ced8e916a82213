"""Debian's Chromium, as the tests of the web page use it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

T = TypeVar("T")

PATIENCE_S = 30.0
PICTURES = "NETAGENT_PICTURES"
"""Names a folder in which the pictures of the documents are written anew."""

WIDE, PHONE = (1280, 800), (390, 844)


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._axe = (resources.files("axe_selenium_python") / "node_modules/axe-core/axe.min.js").read_text(
            encoding="utf-8"
        )

    def open(self, address: str) -> None:
        self._driver.get(address)

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, name: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": name}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    @property
    def address(self) -> str:
        return self._driver.current_url

    @property
    def text(self) -> str:
        """What the page shows."""
        return str(self.run("return document.body.innerText"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self._driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], T], what: str) -> T:
        until = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(StaleElementReferenceException):
                if found := condition():
                    return found
            assert time.monotonic() < until, f"{what}; the page at {self.address} shows:\n{self.text}"
            time.sleep(0.02)

    def wait_text(self, *texts: str) -> None:
        for text in texts:
            self.wait(lambda text=text: text in self.text, f"no {text!r}")  # type: ignore[misc]

    def rows(self, selector: str = "tbody tr:not(.space)") -> list[str]:
        """The text of each row, cells separated by one space."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        return [" ".join(text.split()) for text in self.run(script, selector)]

    def click(self, text: str, *, within: str = "body") -> None:
        """Click the link or button of that text, if enabled."""

        def clicked() -> bool:
            things = ", ".join(f"{within} {kind}" for kind in ("a", "button:enabled", "summary"))
            for one in self._driver.find_elements(By.CSS_SELECTOR, things):
                if one.text.strip() == text and one.is_displayed():
                    one.click()
                    return True
            return False

        self.wait(clicked, f"nothing to click says {text!r}")

    def type(self, text: str) -> None:
        """Type as if on the keyboard; `\\n` is Enter."""
        self._driver.switch_to.active_element.send_keys(text.replace("\n", Keys.ENTER))

    def press(self, key: str) -> None:
        self._driver.switch_to.active_element.send_keys(getattr(Keys, key))

    def violations(self) -> list[str]:
        """What axe-core finds wrong for people who do not see the page, or do not see it well."""
        self.run(self._axe)
        found = self._driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then((one) => done(one.violations))"
        )
        return [
            f"{one['id']}: {node['html'][:160]}: {node.get('failureSummary', '')[:300]}"
            for one in found
            for node in one["nodes"][:3]
        ]

    def foreign_requests(self) -> list[str]:
        """What was asked of any other place."""
        script = "return [...performance.getEntriesByType('resource')].map((one) => one.name)"
        here = self.run("return location.origin")
        return [
            one for one in self.run(script) if not one.startswith(f"{here}/") and not one.startswith("data:")
        ]

    def complaints(self) -> list[str]:
        """What the browser noted since the last call: errors of the page and breaches of its policy. That a server
        does not answer is none."""
        noted: list[dict[str, Any]] = self._driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [
            one["message"]
            for one in noted
            if one["level"] in {"SEVERE", "WARNING"} and one["source"] != "network"
        ]

    def take_picture(self, name: str) -> None:
        """Take one for the documents, if they are to be written anew."""
        folder = os.environ.get(PICTURES)
        if folder:
            # Entries and changes fade in; the picture is of the page at rest.
            self.wait(lambda: not self.run("return document.getAnimations().length"), "it does not rest")
            self._driver.save_screenshot(str(Path(folder).resolve() / f"{name}.png"))

    def second_window(self) -> str:
        """Open another window of the same profile beside this one, and go on in it; returns what leads back."""
        first = self._driver.current_window_handle
        self._driver.switch_to.new_window("window")
        return first

    def switch(self, handle: str) -> str:
        """Go on in another window; returns what leads back."""
        before = self._driver.current_window_handle
        self._driver.switch_to.window(handle)
        return before

    def dom_counts(self) -> dict[str, int]:
        """How many nodes and listeners the window's process holds, after collecting garbage, those that are in no
        document any more included."""
        self._driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        found: dict[str, int] = self._driver.execute_cdp_cmd("Memory.getDOMCounters", {})
        return found

    @property
    def heap_bytes(self) -> int:
        """What the page's scripts hold, after collecting garbage."""
        self._driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        return int(self._driver.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"])


@contextlib.contextmanager
def browser(*, places: str = "", authority: Path | None = None) -> Iterator[Browser]:
    """Yield a new browser with a profile of its own. `places`: rules that lead names elsewhere, such as
    `MAP h1:7958 127.0.0.1:5000`; `authority`: the certificate of one that it trusts."""
    with tempfile.TemporaryDirectory() as home:
        if authority is not None:
            _trust(authority, Path(home) / ".pki/nssdb")
        yield from _started(home, places)


def _trust(authority: Path, database: Path) -> None:
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    subprocess.run([*certutil, "-A", "-n", "authority", "-t", "C,,", "-i", str(authority)], check=True)


def _started(home: str, places: str) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for one in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en-GB"):
        options.add_argument(one)
    if places:
        options.add_argument(f"--host-resolver-rules={places}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=Service("/usr/bin/chromedriver", env={**os.environ, "HOME": home})
    )
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        driver.set_script_timeout(PATIENCE_S)
        window = Browser(driver)
        window.resize(*WIDE)
        yield window
    finally:
        with contextlib.suppress(WebDriverException):
            driver.quit()


def printed_key(answer: str) -> str:
    """The key of an address that `netagent dashboard --json` printed."""
    return str(json.loads(answer)["url"]).partition("#")[2]
