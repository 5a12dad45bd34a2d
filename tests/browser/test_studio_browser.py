"""The studio and the page of missing masks: Playwright in headless Chromium against the real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from paths import POCKET, ROOT, TINY
from PIL import Image
from ports import free_port
from report_browser import CHROMIUM

pytest.importorskip("gradio", reason="the extra 'studio' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")


from cpam_bench.imba.dataset import load, validate  # noqa: E402

PICTURES = os.environ.get("STUDIO_PICTURES")  # a folder for the manual's screenshot, then of the pocket backbone
BACKBONE, STEPS = ("pocket", "50") if PICTURES else (str(TINY), "3")
PATIENCE = 120_000  # milliseconds, for machines that are busy
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium, or set CHROMIUM)"),
]


@pytest.fixture(scope="module", autouse=True)
def patience() -> None:
    sync_api.expect.set_options(timeout=PATIENCE)


def serve(*arguments: object) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    code = "from cpam_bench.eval.commands.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    base = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        try:
            httpx.get(base, timeout=30)
            break
        except httpx.TransportError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    return process, base


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    collect = tmp_path_factory.mktemp("studio") / "my-imba"
    process, base = serve(
        "studio", "--backbone", BACKBONE, "--collect", collect, "--segmenter", "grabcut", "--device", "cpu"
    )
    yield base, collect
    process.terminate()
    process.wait()


def open_page(browser: Any, base: str, noises: list[str]) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: noises.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: noises.append(str(error)))
    page.on(
        "request", lambda r: None if r.url.startswith((base, "data:", "blob:")) else noises.append(f"outside: {r.url}")
    )
    page.goto(base)
    return page


def upload(page: Any, path: Path) -> None:
    page.set_input_files("input[type=file] >> nth=0", str(path))


def click_at(page: Any, x: float, y: float) -> None:
    """A click on the picture, in fractions of its edges."""
    box = page.locator("#clicked img").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def status(page: Any, text: str) -> None:
    sync_api.expect(page.locator("#status")).to_contain_text(text)


def begin(page: Any, name: str, prompt: str) -> None:
    upload(page, POCKET / "images" / name)
    status(page, "Nothing is marked yet")
    page.fill("#prompt textarea", prompt)
    page.click("#settings button >> nth=0")
    page.fill("#steps input[type=number]", STEPS)


def test_load_mark_edit_save_reload(browser: Any, studio: tuple[str, Path]) -> None:
    base, collect = studio
    noises: list[str] = []
    page = open_page(browser, base, noises)
    begin(page, "replace-apple-to-orange.png", "a photo of an orange on a beach")
    page.fill("#object_prompt textarea", "an orange")
    click_at(page, 0.5, 0.62)
    status(page, "marked by grabcut")
    before = page.inner_text("#status")
    page.click("text=Shrink")
    status(page, "then shrink=1")
    assert page.inner_text("#status") != before
    page.click("#run")
    sync_api.expect(page.locator("#sheet img")).to_be_visible()
    assert page.locator("#slider img").count() == 2
    if PICTURES:
        page.click("#settings button >> nth=0")
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(PICTURES) / "studio.png"), full_page=True)
    first = page.get_attribute("#sheet img", "src")
    page.fill("#prompt textarea", "a photo of a cake on a beach")  # change something and run again
    page.click("#run")
    page.wait_for_function("before => document.querySelector('#sheet img')?.src != before", arg=first)
    page.click("#save")
    sync_api.expect(page.locator("#saved")).to_contain_text("Saved as an-orange-a-photo-of-a-cake-on-a-beach")
    page.click("#save")
    sync_api.expect(page.locator("#saved")).to_contain_text("beach-2")
    data = load(collect)
    # Both have the object of the prompt before, and that is said.
    assert len(data) == 2
    assert [problem.what for problem in validate(data)] == ["the object prompt is not in the target prompt"] * 2
    assert data.samples[0].mask_origin.operations == ["shrink=1"]

    page.reload()
    status(page, "Open a picture")  # a new tab's worth; what was saved is there
    page.click("#samples input")
    page.click("text=an-orange-a-photo-of-a-cake-on-a-beach >> nth=0")
    status(page, "marked by grabcut, then shrink=1")
    sync_api.expect(page.locator("#prompt textarea")).to_have_value("a photo of a cake on a beach")
    assert noises == []  # no error, nothing that the policy had to stop, nothing from elsewhere
    page.close()


def test_drawing(browser: Any, studio: tuple[str, Path]) -> None:
    noises: list[str] = []
    page = open_page(browser, studio[0], noises)
    begin(page, "replace-car-to-bus.png", "a bus")
    page.click("role=tab[name=Draw]")
    canvas = page.locator("#canvas canvas").first
    canvas.wait_for()
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=8)
    page.mouse.up()
    status(page, "marked by strokes")
    assert noises == []
    page.close()


def test_two_tabs_do_not_mix(browser: Any, studio: tuple[str, Path]) -> None:
    noises: list[str] = []
    first, second = (open_page(browser, studio[0], noises) for _ in range(2))
    begin(first, "replace-apple-to-orange.png", "a photo of an orange")
    begin(second, "replace-car-to-bus.png", "a photo of a bus")
    click_at(first, 0.5, 0.62)
    status(first, "marked by grabcut")
    status(second, "Nothing is marked yet")
    click_at(second, 0.48, 0.7)
    status(second, "marked by grabcut")
    shares = [page.inner_text("#status") for page in (first, second)]
    first.click("#run")
    second.click("#run")
    for page in (first, second):
        sync_api.expect(page.locator("#sheet img")).to_be_visible()
    assert [page.inner_text("#status") for page in (first, second)] == shares and shares[0] != shares[1]
    sheets = [
        page.evaluate("async () => (await (await fetch(document.querySelector('#sheet img').src)).blob()).size")
        for page in (first, second)
    ]
    assert sheets[0] != sheets[1]
    assert noises == []
    first.close()
    second.close()


def test_hostile_inputs_do_no_harm(browser: Any, studio: tuple[str, Path], tmp_path: Path) -> None:
    base, _ = studio
    (tmp_path / "text.png").write_text("not a picture at all")
    noise = np.random.default_rng(0).integers(0, 256, (2300, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    assert (tmp_path / "large.png").stat().st_size > 20e6

    page = open_page(browser, base, [])
    begin(page, "replace-apple-to-orange.png", "a photo of an orange")
    upload(page, tmp_path / "text.png")
    sync_api.expect(page.locator(".toast-body")).to_contain_text("not a picture")
    status(page, "128 x 128")  # what was open is still open
    upload(page, tmp_path / "large.png")
    status(page, "3000 x 2300 pixels")

    # A tab that is closed in the middle of an edit.
    page.reload()
    begin(page, "replace-apple-to-orange.png", "a photo of an orange")
    click_at(page, 0.5, 0.62)
    status(page, "marked by grabcut")
    page.click("#run")
    page.wait_for_timeout(300)
    page.close()

    page = open_page(browser, base, [])
    begin(page, "replace-car-to-bus.png", "a photo of a bus")
    click_at(page, 0.48, 0.7)
    status(page, "marked by grabcut")
    page.click("#run")
    sync_api.expect(page.locator("#sheet img")).to_be_visible()
    page.fill("#prompt textarea", " ")
    page.click("#run")
    sync_api.expect(page.locator(".toast-body")).to_contain_text("give a prompt")
    page.close()
    assert httpx.get(base, headers={"host": "elsewhere.example"}, timeout=30).status_code == 400


def test_missing_masks_are_drawn_one_by_one(browser: Any, tmp_path: Path) -> None:
    records = json.loads((POCKET / "data.json").read_text())[:3]
    (tmp_path / "images").mkdir()
    for record in records:
        shutil.copy(POCKET / "images" / record["img_name"], tmp_path / "images")
        record.pop("truth")
    records[2]["img_name"] = records[1]["img_name"]  # two samples of one image
    (tmp_path / "data.json").write_text(json.dumps(records))
    ids = [record["id"] for record in records]
    process, base = serve("data", "annotate", tmp_path)
    noises: list[str] = []
    try:
        page = open_page(browser, base, noises)
        task = page.locator("#task")
        sync_api.expect(task).to_contain_text(f"{ids[0]} · 0 of 3 samples have a mask")
        page.click("#accept")  # nothing is marked
        sync_api.expect(page.locator(".toast-body")).to_contain_text("mark what to edit")
        page.click("#skip")
        sync_api.expect(task).to_contain_text(ids[1])
        status(page, "Nothing is marked yet")
        click_at(page, 0.48, 0.7)
        status(page, "marked by")
        page.check("#own input")
        page.click("#accept")
        sync_api.expect(task).to_contain_text(f"{ids[2]} · 1 of 3")
        page.close()  # and come back

        page = open_page(browser, base, noises)
        task = page.locator("#task")
        for left, id in ((1, ids[0]), (2, ids[2])):
            sync_api.expect(task).to_contain_text(f"{id} · {left} of 3")
            status(page, "Nothing is marked yet")
            click_at(page, 0.5, 0.66)
            status(page, "marked by")
            page.click("#accept")
        sync_api.expect(task).to_contain_text("Done: all 3 samples have masks")
        page.close()
    finally:
        process.terminate()
        process.wait()
    data = load(tmp_path)
    assert validate(data) == [] and [sample.id for sample in data] == ids
    assert all(sample.mask_origin is not None for sample in data)
    assert noises == []
