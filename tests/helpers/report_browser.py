"""What Chromium says of a report: how soon it paints, what it complains of and asks for, and what axe-core finds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

# The paints are asked for once the largest is known, since on a busy machine the page is loaded before it is painted.
_PAINTS = """() => new Promise((resolve) => {
  new PerformanceObserver((list) => {
    const paints = performance.getEntriesByType("paint").map((entry) => [entry.name, entry.startTime]);
    resolve({ ...Object.fromEntries(paints), "largest-contentful-paint": list.getEntries().at(-1).startTime });
  }).observe({ type: "largest-contentful-paint", buffered: true });
})"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def open_report(browser: Any, report: Path, noises: list[str], requests: list[str], **device: Any) -> Any:
    """The page of a report, opened as a file; what the console says and what is asked for go into the lists."""
    page = browser.new_context(**device).new_page()
    page.on("console", lambda message: noises.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: noises.append(str(error)))
    page.on("requestfailed", lambda request: noises.append(f"failed: {request.url}"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((report / "index.html").resolve().as_uri())
    return page


def outside(report: Path, requests: list[str]) -> list[str]:
    """The requests that left the report's folder."""
    home = report.resolve().as_uri() + "/"
    return [url for url in requests if not url.startswith((home, "data:,"))]


def paints(page: Any) -> dict[str, float]:
    """Milliseconds from navigation to the first, the first contentful and the largest contentful paint so far."""
    found: dict[str, float] = page.evaluate(_PAINTS)
    return found


def violations(page: Any) -> list[str]:
    """What axe-core finds, as ``impact: rule: first element``."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['impact']}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]
