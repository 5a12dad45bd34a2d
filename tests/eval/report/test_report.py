"""The report as a file: what stands in it, what cannot harm it, and how it is written."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from PIL import Image
from report_runs import HOSTILE, fabricate, pocket_material
from typer.testing import CliRunner

from cpam_bench.eval.analysis.leaderboard import leaderboard, sliced
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.report.page import write_report
from cpam_bench.eval.report.scatter import HEIGHT, LONGEST, WIDTH, scatter, shortened
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


class Page(HTMLParser):
    """Elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("runs") / "made", pocket_material(), samples=8, methods=3)


@pytest.fixture(scope="module")
def out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "report"
    assert write_report([run], folder) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "index.html").read_text())


def test_every_number_is_the_leaderboards(run: Path, page: Page) -> None:
    rows = leaderboard([run]).rows
    text = " ".join(page.texts)
    for row in rows.to_dict("records"):
        assert f"{row['clip_score']:.2f}" in text and f"{row['lpips_background_high']:.4f}" in text
    values = {float(cell["data-value"]) for cell in page.all("td") if cell.get("data-value")}
    assert set(rows["clip_score"]) <= values and set(rows["lpips_background"]) <= values
    scores = pd.read_csv(run / "scores.csv")
    assert set(scores["value"].round(12)) <= {round(value, 12) for value in values}
    for words in ("replace", "object retained", "several objects"):
        assert words in text
    for board in sliced([run], "several").values():
        for row in board.rows.to_dict("records"):
            assert f"{row['clip_score_low']:.2f} to {row['clip_score_high']:.2f}" in text


def test_pictures_are_there_small_and_lazy(run: Path, out: Path, page: Page) -> None:
    images = page.all("img")
    assert images
    for image in images:
        assert image["loading"] == "lazy" and image["width"] == image["height"] == "128"
        assert image["alt"] is not None
        with Image.open(out / unquote(image["src"] or "")) as file:
            assert file.format == "WEBP" and file.size == (128, 128)
    store = Store.open(run)
    done = sum(store.is_done(method, sample) for method in store.run.methods for sample in store.run.samples)
    files = {image["src"] for image in images}
    assert len([file for file in files if re.search(r"/\d{3}\.webp$", file or "")]) == done < 24
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.webp")} == files


def test_nothing_comes_from_elsewhere_and_nothing_hostile_acts(page: Page, out: Path) -> None:
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy and policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert len(page.all("script")) == len(page.all("style")) == 1
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert value.startswith(("pictures/", "#", "data:,")) or not value, value
    assert HOSTILE in "".join(page.texts)  # shown as text
    assert "<script>document" not in (out / "index.html").read_text()


def test_failures_are_told_with_their_messages(page: Page) -> None:
    text = "".join(page.texts)
    assert "22, 2 failed" in text
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"failures", "gallery", "protocol", "leaderboard", "trade-off"} <= ids
    assert text.count(f"RuntimeError: {HOSTILE}") == 2 * 2  # two edits, each in the gallery and in the table
    links = [link["href"] for link in page.all("a")]
    assert all((link or "")[1:] in ids for link in links if link)


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en" and len(page.all("main")) == len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids


def test_a_report_is_replaced_and_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_report([run], out)
    (out / "pictures" / "old.webp").write_bytes(b"")
    write_report([run], out)
    assert not (out / "pictures" / "old.webp").exists()
    for other in (run, tmp_path):
        with pytest.raises(UserError, match="no report of cpam-bench"):
            write_report([run], other)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_report([run], tmp_path / "file")


def test_what_fails_halfway_leaves_the_older_report(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cpam_bench.eval.report import page

    out = tmp_path / "report"
    write_report([run], out)
    before = (out / "index.html").read_bytes()

    def broken(*arguments: object) -> None:
        raise UserError("no more")

    monkeypatch.setattr(page, "write_picture", broken)
    with pytest.raises(UserError, match="no more"):
        write_report([run], out)
    assert (out / "index.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_command_with_two_runs_and_what_it_refuses(run: Path, tmp_path: Path) -> None:
    other = fabricate(tmp_path / "other", pocket_material(), samples=4, methods=1, seed=1)
    arguments = ["report", str(run), str(other), "--out", str(tmp_path / "both"), "--title", "Mine & yours"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "both" / "index.html").read_text()
    assert "cpam [made]" in text and "cpam [other]" in text and "Mine &amp; yours" in text
    (other / "scores.json").unlink()
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, UserError) and "cpam-bench score" in str(refused.exception)


def test_damaged_and_missing_files_cost_only_themselves(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    store = Store.open(damaged)
    first, second = store.run.samples[2:4]
    store.edit_path("cpam", first).write_bytes(b"no picture")
    store.edit_path("masactrl", first).with_suffix(".json").unlink()
    store.source_path(second).write_bytes(b"no picture")
    write_report([damaged], tmp_path / "report")
    text = (tmp_path / "report" / "index.html").read_text()
    assert "has changed since it was written" in text and "not edited" in text
    assert "the source is not in the run" in text


def test_scatter_keeps_inside_its_frame(run: Path) -> None:
    board = leaderboard([run])
    drawn = scatter(board.rows, ["cpam"], "lpips_background", "clip_score")
    assert drawn and [point.name for point in drawn.points] == list(board.rows["method"])
    assert drawn.points[0].reference and not drawn.points[1].reference
    # Better is up and left: the order of the numbers is the order on the picture.
    by_x = sorted(drawn.points, key=lambda point: point.x)
    assert [p.name for p in by_x] == list(board.rows.sort_values("lpips_background")["method"])
    by_y = sorted(drawn.points, key=lambda point: -point.y)
    assert [p.name for p in by_y] == list(board.rows.sort_values("clip_score")["method"])
    for point in drawn.points:
        assert 0 <= point.x <= WIDTH and 0 <= point.y <= HEIGHT
        assert point.left <= point.x <= point.right and point.high <= point.y <= point.low
    one = board.rows.head(1).assign(lpips_background_low=float("nan"), lpips_background_high=float("nan"))
    alone = scatter(one, [], "lpips_background", "clip_score")
    assert alone and alone.points[0].left is None
    assert scatter(board.rows.assign(clip_score=float("nan")), [], "lpips_background", "clip_score") is None


def test_labels_of_the_scatter_are_short_and_inside_it(run: Path) -> None:
    rows = leaderboard([run]).rows
    long = {
        "cpam": "imagic:embedding_steps=100,model_rate=0.0001,model_steps=200",
        "masactrl": "p2p-nti:inversion=ddim,self_edge=quarter",
        "sdedit": "p2p-nti:inversion=ddim,trajectory=true,self_edge=half",
    }
    drawn = scatter(rows.assign(method=rows["method"].map(long)), [], "lpips_background", "clip_score")
    assert drawn and {point.name: point.label for point in drawn.points} == {
        long["cpam"]: "imagic:…",
        long["masactrl"]: "p2p-nti:invers…lf_edge=quarter",
        long["sdedit"]: "p2p-nti:invers…,self_edge=half",
    }
    for point in drawn.points:
        assert point.text.startswith(f"{point.name}: CLIPScore") and len(point.label) <= LONGEST
        width = 7.2 * len(point.label)
        left = point.label_x - (width if point.anchor == "end" else 0)
        assert left >= 0 and left + width <= WIDTH
    assert shortened(["cpam", "cpam:refine=true", "x" * 31]) == ["cpam", "cpam:refine=true", f"{'x' * 14}…{'x' * 15}"]


def test_the_page_itself_says_which_edit_is_shown_first(run: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(run, tmp_path / "run"))
    store = Store.open(damaged)
    samples = store.run.samples
    first, second, _ = store.run.methods
    store.edit_path(first, samples[0]).with_suffix(".json").unlink()
    made = {(edit.method, edit.sample) for edit in store.edits()[0] if edit.status == "ok"}
    wanted = [next(method for method in store.run.methods if (method, sample) in made) for sample in samples]
    assert wanted[0] == second and first in wanted
    text = write_report([damaged], tmp_path / "report").read_text()
    cards = text.split("<article")[1:]
    assert len(cards) == len(samples)
    for card, name in zip(cards, wanted, strict=True):
        stage, below = card.split('<ul class="edits">')
        pressed = below.split('aria-pressed="true"')
        assert len(pressed) == 2
        image = Page(pressed[1]).all("img")[0]
        assert image["alt"] == f"Edited by {name}" and Page(stage).all("img")[0]["src"] == image["src"]
        assert f"over the edit by {name}" in stage and f'<span class="shown">{name}</span>' in stage


def test_the_area_of_a_point_is_how_much_the_region_changed(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "run"))
    changed = {"cpam": 0.4, "masactrl": 0.2, "sdedit": 0.01}
    rows = pd.read_csv(other / "scores.csv")
    more = rows[rows["metric"] == "clip_score"].assign(metric="lpips_region")
    more["value"] = more["method"].map(changed)
    pd.concat([rows, more]).sort_values(["method", "sample"], kind="stable").to_csv(other / "scores.csv", index=False)
    described = json.loads((other / "scores.json").read_text())
    described["metrics"]["lpips_region"] = {"protocol": "made up"}
    (other / "scores.json").write_text(json.dumps(described))
    board = leaderboard([other])
    drawn = scatter(board.rows, [], "lpips_background", "clip_score", "lpips_region")
    assert drawn
    areas = {point.name: point.radius**2 for point in drawn.points}
    # In proportion, from a quarter of the usual area on: half the change is half of the way.
    assert (
        areas["cpam"] == pytest.approx(11**2) and drawn.sizes[0] == (2.5, "0.00") and drawn.sizes[2] == (11.0, "0.40")
    )
    assert areas["masactrl"] == pytest.approx((2.5**2 + 11**2) / 2, rel=0.02)
    assert "LPIPS of the altered region to the source 0.2000" in drawn.description
    hardly = [note for note in board.notes if "hardly changed" in note]
    assert len(hardly) == 1 and hardly[0].startswith("sdedit: ") and "0.010, below 0.05" in hardly[0]
    page = Page(write_report([other], tmp_path / "report").read_text())
    circles = [float(circle["r"] or 0) for circle in page.all("circle")]
    assert sorted(circles) == sorted([*(round(area**0.5, 1) for area in areas.values()), *(r for r, _ in drawn.sizes)])
    text = " ".join(page.texts)
    assert "The larger a point, the more its region was altered" in text and hardly[0] in text
    assert "LPIPS of the altered region to the source 0.4000" in text  # in the picture's description


def test_where_change_is_not_measured_the_page_says_how(page: Page) -> None:
    assert {circle["r"] for circle in page.all("circle")} == {"5.0"}
    assert "cpam-bench score RUN --metrics lpips_region" in "".join(page.texts)
