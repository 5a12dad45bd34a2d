"""A rater at the keyboard, then on a phone: Playwright in headless Chromium against the real server."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from paths import ROOT
from ports import free_port
from report_browser import CHROMIUM
from study_runs import make_run

pytest.importorskip("fastapi", reason="the extra 'study' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")


from cpam_bench.eval.study import database, design, ratings  # noqa: E402

PICTURES = os.environ.get("STUDY_PICTURES")  # a folder for the manual's screenshots
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium, or set CHROMIUM)"),
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", ["masactrl", "cpam:steps=5", "cpam:layer=3"], 5)
    plan = design.read_plan().model_copy(update={"break_every": 8})
    design.init([run], tmp_path / "study", raters=2, images=5, plan=plan)
    connection = database.connect(tmp_path / "study")
    connection.execute("UPDATE sample SET prompt = '<b>bold</b>' WHERE id = 4")
    connection.close()
    return tmp_path / "study"


@pytest.fixture
def server(study: Path) -> Iterator[str]:
    port = free_port()
    code = "import sys; from pathlib import Path as P; from cpam_bench.eval.study.server import serve; "
    code += "serve(P(sys.argv[1]), port=int(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(study), str(port)], cwd=ROOT)
    base = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            httpx.get(base, timeout=1)
            break
        except httpx.TransportError:
            time.sleep(0.05)
    yield base
    process.terminate()
    process.wait()


def open_page(browser: Any, url: str, noises: list[str], **device: Any) -> Any:
    page = browser.new_context(**device).new_page()
    page.on("console", lambda message: noises.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: noises.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(url.split("/r/")[0]) else noises.append(request.url)
    )
    page.goto(url)
    page.click("#start")
    return page


def count(page: Any, text: str) -> None:
    sync_api.expect(page.locator("#count")).to_have_text(text)


def shoot(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / name))


def test_a_rater(browser: Any, server: str, study: Path) -> None:
    with (study / "links.csv").open() as file:
        link = server + next(csv.DictReader(file))["link"]
    noises: list[str] = []
    page = open_page(browser, link, noises, viewport={"width": 1100, "height": 820})
    count(page, "0 of 15")
    prompts = set()
    sync_api.expect(page.locator("#result")).to_have_js_property("complete", True)
    assert page.evaluate("document.getElementById('result').naturalWidth") == 128

    for done in range(10):
        task = page.get_attribute("body", "data-task")
        prompts.add(page.inner_text("#prompt"))
        keys = [str((done + i) % 6 + 1) for i in range(4)]
        for i, key in enumerate(keys):
            if done == 3 and i == 3:
                shoot(page, "study.png")
            page.keyboard.press(key)
        count(page, f"{done + 1} of 15")
        table = ratings.read_study(study).ratings  # the page went on, so it is on disk
        assert len(table) == 4 * (done + 1)
        assert table["rating"].tail(4).tolist() == [float(key) for key in keys]
        assert page.get_attribute("body", "data-task") != task
        if done == 7:
            assert page.is_visible("#pause")
            page.keyboard.press("4")  # a key during the break rates nothing
            page.click("#resume")
    assert "“<b>bold</b>”" in prompts  # shown as text and not taken for HTML
    before = page.get_attribute("body", "data-task")
    following = server + httpx.get(f"{link}/state").json()["next"]["result"]
    page.wait_for_function("url => performance.getEntriesByName(url).length", arg=following)  # asked for beforehand
    page.context.close()

    # Elsewhere: a phone, by touch, with the same link.
    phone = open_page(browser, link, noises, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    count(phone, "10 of 15")
    assert phone.get_attribute("body", "data-task") == before
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    for button in phone.locator("fieldset button").all():
        box = button.bounding_box()
        assert box["width"] >= 40 and box["height"] >= 40
    phone.locator("fieldset").nth(0).locator("button").nth(4).tap()
    shoot(phone, "study_phone.png")
    phone.tap("#undo")  # takes back the answer that was not sent yet
    assert phone.locator("button[aria-pressed=true]").count() == 0
    phone.tap("#undo")  # takes back the tenth picture
    count(phone, "9 of 15")
    table = ratings.read_study(study).ratings
    assert len(table) == 36
    for i in range(4):
        phone.locator("fieldset").nth(i).locator("button").nth(5).tap()
    count(phone, "10 of 15")
    assert ratings.read_study(study).ratings["rating"].tail(4).tolist() == [6.0] * 4
    assert phone.get_attribute("body", "data-task") == before
    phone.context.close()

    # The desk again, to the end; hold Space to compare, M hides the outline.
    page = open_page(browser, link, noises, viewport={"width": 1100, "height": 820})
    count(page, "10 of 15")
    result = page.get_attribute("#result", "src")
    page.keyboard.down(" ")
    assert page.get_attribute("#result", "src") == page.get_attribute("#source", "src")
    page.keyboard.up(" ")
    assert page.get_attribute("#result", "src") == result
    assert page.is_visible("#outline")
    page.keyboard.press("m")
    assert not page.is_visible("#outline")
    for done in range(10, 15):
        page.keyboard.press("ArrowDown")  # the second question first
        for key in "6123":
            page.keyboard.press(key)
        count(page, f"{done + 1} of 15")
    assert page.is_visible("#end")
    last = ratings.read_study(study).ratings.tail(4)
    assert dict(zip(last["question"], last["rating"], strict=True)) == {
        "object_retention": 1, "background_retention": 6, "realistic": 2, "satisfaction": 3
    }  # fmt: skip
    assert noises == []  # no error, nothing that the content security policy had to stop, nothing from elsewhere


def test_the_page_waits_for_a_server_that_is_away(browser: Any, server: str, study: Path) -> None:
    with (study / "links.csv").open() as file:
        link = server + list(csv.DictReader(file))[1]["link"]
    page = open_page(browser, link, [])
    count(page, "0 of 15")
    page.context.set_offline(True)
    for key in "1234":
        page.keyboard.press(key)
    sync_api.expect(page.locator("#status")).to_contain_text("Not saved yet")
    count(page, "0 of 15")  # it does not go on
    page.context.set_offline(False)
    count(page, "1 of 15")
    assert ratings.read_study(study).ratings["rating"].tolist() == [1, 2, 3, 4]
    page.context.close()
