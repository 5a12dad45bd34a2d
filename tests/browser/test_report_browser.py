"""A reader of a report at the desk, on a phone and at the printer: Playwright in headless Chromium, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_browser import CHROMIUM, open_report, outside, paints, violations
from report_runs import HOSTILE, fabricate, pocket_material

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")
pytest.importorskip("axe_playwright_python", reason="axe-core is not installed (pip install axe-playwright-python)")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium, or set CHROMIUM)"),
]

from cpam_bench.eval.report.page import write_report  # noqa: E402


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run = fabricate(folder / "run", pocket_material(), samples=12, methods=4)
    write_report([run], folder / "a report")  # a space, as a folder may well have
    return folder / "a report"


def names(page: Any, table: str = "table.sortable >> nth=0") -> list[str]:
    return page.locator(table).locator("tbody >> nth=0").locator("th").all_inner_texts()


def test_at_the_desk(browser: Any, report: Path) -> None:
    noises: list[str] = []
    requests: list[str] = []
    page = open_report(browser, report, noises, requests, viewport={"width": 1280, "height": 900})
    assert paints(page)["first-contentful-paint"] > 0
    assert page.title() != "owned" and HOSTILE in page.inner_text("#sample-1 h3")

    # Sorting, by mouse and by key; the methods have ever higher scores and distances.
    order = ["cpam", "masactrl", "sdedit", "pnp"]
    assert names(page) == order
    head = page.locator("table.sortable >> nth=0").locator("thead button")
    clip = head.filter(has_text="CLIPScore")
    clip.click()
    assert names(page) == order[::-1] and clip.locator("..").get_attribute("aria-sort") == "descending"
    clip.focus()
    page.keyboard.press("Enter")
    assert names(page) == order and clip.locator("..").get_attribute("aria-sort") == "ascending"
    head.filter(has_text="method").click()
    assert names(page) == sorted(order)

    # Filters.
    output = page.locator(".filters output")
    assert output.inner_text() == "12 of 12 samples"
    page.select_option("select[name=several]", "yes")
    assert output.inner_text() == "3 of 12 samples" and page.locator(".sample:visible").count() == 3
    page.fill("input[name=text]", "no such thing")
    assert output.inner_text() == "0 of 12 samples" and page.is_visible(".empty")
    page.click(".empty button")
    sync_api.expect(output).to_have_text("12 of 12 samples")
    page.select_option("select[name=kind]", "pose")
    kinds = page.locator(".sample:not([hidden]) .tags span:first-of-type")
    # Cards that have not been scrolled to are not laid out, and have no inner text.
    assert set(kinds.all_text_contents()) == {"pose"}
    page.click("button[type=reset]")
    page.check("input[name=failed]")
    left = page.locator(".sample:not([hidden])")
    assert 0 < left.count() == left.and_(page.locator(".sample:has(.failed)")).count() < 12
    page.click("button[type=reset]")
    sync_api.expect(output).to_have_text("12 of 12 samples")

    # Before and after: the slider, the pointer, and another method by a click on it.
    card = page.locator("#sample-3")
    card.scroll_into_view_if_needed()
    slider, stage = card.locator("input[type=range]"), card.locator(".stage")
    slider.focus()
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "100 % source"
    clip_path = "getComputedStyle(document.querySelector('#sample-3 .stage img:nth-child(2)')).clipPath"
    assert page.evaluate(clip_path).replace(" ", "") in ("inset(0px)", "inset(0px0%0px0px)", "inset(0pxcalc(0%)0px0px)")
    box = stage.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 20)
    assert slider.input_value() in ("24", "25", "26")
    card.locator(".edits button", has_text="masactrl").click()
    wanted = card.locator("li[data-method='1'] img").get_attribute("src")
    assert stage.locator("img").first.evaluate("image => image.src").endswith(wanted)
    assert card.locator(".shown").inner_text() == "masactrl"
    page.uncheck("input[name=method][value='1']")
    assert card.locator(".shown").inner_text() != "masactrl"
    assert page.locator("[data-method='1']:visible").count() == 0
    page.uncheck("input[name=region]")
    assert page.locator(".stage img:nth-child(3):visible").count() == 0
    page.click("button[type=reset]")

    # The worst first, by the method that is in the viewers.
    page.select_option("select[name=order]", "0")
    shown = page.locator(".sample").evaluate_all(
        "cards => cards.map(card => Number(card.querySelector(`tr[data-method='${"
        "card.querySelector(\".edits [aria-pressed='true']\").parentElement.dataset.method}'] td`).dataset.value))"
    )
    assert shown == sorted(shown)

    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert violations(page) == []
    assert noises == [] and outside(report, requests) == []
    assert any(url.endswith(".webp") for url in requests)
    page.context.close()


def test_pictures_wait_until_they_are_scrolled_to(browser: Any, report: Path) -> None:
    requests: list[str] = []
    page = open_report(browser, report, [], requests, viewport={"width": 1280, "height": 700})
    page.wait_for_load_state("networkidle")
    before = len(requests)
    page.locator("#protocol").scroll_into_view_if_needed()
    page.locator(".sample").last.scroll_into_view_if_needed()
    image = page.locator(".sample").last.locator(".edits img").first
    sync_api.expect(image).to_have_js_property("complete", True)
    assert len(requests) > before
    page.context.close()


def test_on_a_phone_in_the_dark(browser: Any, report: Path) -> None:
    noises: list[str] = []
    device = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
    page = open_report(browser, report, noises, [], **device)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#sample-2 .edits button").last.tap()
    assert page.locator("#sample-2 .edits button").last.get_attribute("aria-pressed") == "true"
    assert violations(page) == [] and noises == []
    page.context.close()


def test_in_print_and_without_scripts(browser: Any, report: Path) -> None:
    page = open_report(browser, report, [], [], viewport={"width": 1000, "height": 900})
    page.emulate_media(media="print")
    assert page.locator(".filters:visible").count() == page.locator(".compare:visible").count() == 0
    assert page.locator(".sample:visible").count() == 12
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.context.close()

    plain = open_report(browser, report, [], [], java_script_enabled=False)
    assert plain.locator(".script:visible").count() == 0
    assert plain.locator(".sample:visible").count() == 12 and plain.locator(".edits [hidden]").count() == 0
    assert plain.locator("#sample-1 .edits li:visible").count() > 4
    plain.context.close()
