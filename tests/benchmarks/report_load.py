"""A report at full size in a real browser: 104 samples x 10 methods made up from a run's pictures.

Opens the page from its file in headless Chromium, at the desk and on a phone, and measures when it first paints and
when it has loaded, what the console says, what is asked for outside the report's folder, and what axe-core finds.
axe-core takes longer than minutes on thousands of samples: ``--only-opening`` leaves it and the scrolling out.
``--pictures`` also takes the manual's screenshots, of the report of the run itself.

    cpam-bench run --out results/runs/pocket-pocket
    python tests/benchmarks/report_load.py results/runs/pocket-pocket [--out FILE.json] [--pictures results/pictures]
    python tests/benchmarks/report_load.py results/runs/pocket-pocket --samples 5000 --methods 2 --only-opening

Exit code 1: the first paint took a second or more, or anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "browser")]

from PIL import Image  # noqa: E402
from report_browser import CHROMIUM, chromium, open_report, outside, paints, violations  # noqa: E402
from report_runs import fabricate, run_material  # noqa: E402

from cpam_bench.eval.report.page import write_report  # noqa: E402
from cpam_bench.eval.run.describe import machine  # noqa: E402

DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2
}  # fmt: skip
LIMIT = 1000.0  # milliseconds to the first paint
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def measure(browser: Any, report: Path, device: dict[str, Any], rounds: int, only_opening: bool) -> dict[str, Any]:
    """Open the page some times, each in a context of its own, and then scroll and check it once."""
    noises: list[str] = []
    requests: list[str] = []
    times = []
    for _ in range(rounds):
        page = open_report(browser, report, noises, requests, **device)
        times.append({**paints(page), "loaded": page.evaluate(LOADED)})
        page.context.close()
    found = [] if only_opening else check(browser, report, device, noises, requests)
    return {
        "milliseconds": {name: [round(each[name]) for each in times] for name in times[0]},
        "console": sorted(set(noises)),
        "outside_requests": sorted(set(outside(report, requests))),
        "axe": found,
    }


def check(browser: Any, report: Path, device: dict[str, Any], noises: list[str], requests: list[str]) -> list[str]:
    """Scroll through the page, so that all pictures are asked for; what axe-core finds."""
    page = open_report(browser, report, noises, requests, **device)
    height = page.evaluate("document.documentElement.scrollHeight")
    for y in range(0, height, 2000):
        page.evaluate(f"scrollTo(0, {y})")
    page.evaluate("scrollTo(0, 0)")
    found = violations(page)
    page.context.close()
    return found


def take_pictures(browser: Any, report: Path, folder: Path) -> None:
    """The manual's screenshots: the top of the page and a sample, at the desk and on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, device, height in (("report.png", DESK, 2240), ("report_phone.png", PHONE, 1500)):
        shown = {**device, "viewport": {**device["viewport"], "height": height}}
        page = open_report(browser, report, [], [], **shown)
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.evaluate(
            "document.querySelector('#gallery').scrollIntoView({ behavior: 'instant' })"
            if name == "report_phone.png"
            else "scrollTo({ top: 0, behavior: 'instant' })"
        )
        page.wait_for_load_state("networkidle")
        page.evaluate(
            "() => Promise.all([...document.images].filter(image => { const box = image.getBoundingClientRect();"
            " return box.width && box.top < innerHeight && box.bottom > 0; }).map(image => image.decode()))"
        )
        page.screenshot(path=str(folder / name))
        page.context.close()
        with Image.open(folder / name) as file:
            small = file.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        small.save(folder / name, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a scored run whose pictures are used")
    parser.add_argument("--samples", type=int, default=104)
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--edge", type=int, help="enlarge the pictures to this edge, as 512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-opening", action="store_true", help="neither scroll nor ask axe-core")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--pictures", type=Path, help="folder for the manual's screenshots")
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("no Chromium (apt-get install chromium, or set CHROMIUM)")

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        place = Path(folder)
        material = run_material(options.run, options.edge)
        run = fabricate(place / "run", material, options.samples, options.methods)
        begun = time.perf_counter()
        write_report([run], place / "report")
        figures: dict[str, Any] = {
            "samples": options.samples,
            "methods": options.methods,
            "edge": options.edge or material[0].source.width,
            "seconds_to_write": round(time.perf_counter() - begun, 1),
            "page_kb": round((place / "report" / "index.html").stat().st_size / 1000),
            "pictures": len(list((place / "report").rglob("*.webp"))),
            "pictures_mb": round(sum(p.stat().st_size for p in (place / "report").rglob("*.webp")) / 1e6, 1),
            "desk": measure(browser, place / "report", DESK, options.rounds, options.only_opening),
            "phone": measure(browser, place / "report", PHONE, options.rounds, options.only_opening),
            "machine": {**machine("cpu"), "cores": os.cpu_count(), "browser": browser.version},
        }
        if options.pictures:
            write_report([options.run], place / "own")
            take_pictures(browser, place / "own", options.pictures)
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    for where in ("desk", "phone"):
        seen = figures[where]
        first = statistics.median(seen["milliseconds"]["first-contentful-paint"])
        if first >= LIMIT or seen["console"] or seen["outside_requests"] or seen["axe"]:
            sys.exit(f"{where}: first paint {first:.0f} ms (limit {LIMIT:.0f}), or something was found; see above")


if __name__ == "__main__":
    main()
