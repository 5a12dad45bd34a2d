"""PIE-Bench from its folder to its table: 20 made samples through the commands, against straight computations.

Every type is there twice.  One mask is the whole picture, and one run ends beyond it.  One mask is empty but for its
frame, of which nothing is left at the small backbone's resolution, and one picture is missing: both are left out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import made_data
import numpy as np
import pytest
from editor_helpers import small_backbone
from PIL import Image
from straight_metrics import Straight
from tiny_networks import write_squeezenet, write_transformers
from typer.testing import CliRunner

from cpam_bench.eval.analysis.statistics import mean_interval
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_json

METHODS = ("masactrl", "masactrl:trajectory=false", "identity")
SCALES = {
    "structure_distance": 1e3,
    "psnr": 1,
    "lpips": 1e3,
    "mse": 1e4,
    "ssim": 1e2,
    "clip_whole": 1,
    "clip_edited": 1,
}


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


@dataclass(frozen=True)
class Made:
    """The data set, the run of it, what it said, and the values: method -> sample -> the seven, computed straight."""

    data: Path
    run: Path
    said: str
    entries: dict[str, dict[str, object]]
    straight: dict[str, dict[str, dict[str, float]]]


def by_hand(entry: dict[str, object]) -> np.ndarray:
    """The mask of an entry at 64 pixels, without its frame at that size."""
    flat = np.zeros(512 * 512, bool)
    runs = entry["mask"]
    assert isinstance(runs, list)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(512, 512)
    if entry["editing_type_id"] == "9":  # a change of style is one of the whole picture
        mask[:] = True
    mask[[0, -1]] = mask[:, [0, -1]] = True
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)) > 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("pie")
    data = made_data.pie_bench(root / "PIE-Bench")
    listed = data / "mapping_file.json"
    entries = json.loads(listed.read_text())
    keys = list(entries)
    entries[keys[0]]["mask"], entries[keys[3]]["mask"] = [], [0, 512 * 512]
    entries[keys[4]] |= {"mask": [100 * 512, 512 * 500], "editing_prompt": "a [red] [dog] on a chair"}
    listed.write_text(json.dumps(entries))
    (data / "annotation_images" / entries[keys[9]]["image_path"]).unlink()
    backbone = root / "backbone"
    small_backbone().pipeline.save_pretrained(backbone)
    places = write_transformers(root / "networks")
    run = root / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TORCH_HOME", str(write_squeezenet(root / "torch")))
        options = ("--backbone", backbone, "--steps", 2, "--batch", 10, "--no-references", "--no-score", "--out", run)
        said = invoke("run", "--dataset", data, "--methods", ",".join(METHODS), "--incomplete", "skip", *options)
        networks = [part for role in ("dino", "transformers-clip") for part in ("--network", f"{role}={places[role]}")]
        invoke("score", run, "--protocol", "pie-bench", *networks)
        straight, store = Straight(places), Store.open(run)
        values: dict[str, dict[str, dict[str, float]]] = {method: {} for method in METHODS}
        for key, entry in entries.items():
            if key in (keys[0], keys[9]):
                continue
            path = data / "annotation_images" / entry["image_path"]
            source = Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
            prompt = re.sub(r"[\[\]]", "", entry["editing_prompt"])
            for method in METHODS:
                edit = Image.open(store.edit_path(method, key)).convert("RGB")
                values[method][key] = straight.seven(source, edit, by_hand(entry), prompt)
        yield Made(data, run, said, entries, values)


def means(made: Made, method: str, name: str) -> tuple[float, int]:
    """Of the values that are defined, in published units, and how many they are."""
    values = np.array([seven[name] for seven in made.straight[method].values()]) * SCALES[name]
    return float(np.nanmean(values)), int((~np.isnan(values)).sum())


def test_the_data_set_is_told_with_what_it_lacks(made: Made) -> None:
    told = invoke("data", "info", made.data)
    assert "pie-bench" in told and "mapping_file.json and annotation_images/ are here" in told
    assert "the image is missing" in told and "type" in told
    assert "18 of 20 samples are complete" in made.said
    left_out = [line for line in made.said.splitlines() if line.startswith("left out")]
    assert len(left_out) == 2 and "image is missing" in left_out[0] and next(iter(made.entries)) in left_out[1]


def test_every_score_is_the_straight_one(made: Made) -> None:
    rows = list(csv.DictReader((made.run / "scores.csv").open()))
    labels = list(dict.fromkeys(row["metric"] for row in rows))
    order = {"structure_distance": "structure_distance", "psnr_background": "psnr", "lpips_background": "lpips"}
    order |= {"mse_background": "mse", "ssim_background": "ssim", "clip_score": "clip_whole"}
    order |= {"clip_score_region": "clip_edited"}
    names = {label: order[label.partition(":")[0]] for label in labels}
    assert len(rows) == 18 * 3 * 7 and sorted(names.values()) == sorted(SCALES)
    for row in rows:
        expected = made.straight[row["method"]][row["sample"]][names[row["metric"]]]
        assert float(row["value"] or "nan") == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True), row
    empty = {row["sample"] for row in rows if names[row["metric"]] == "lpips" and not row["value"]}
    keys = list(made.entries)
    assert empty == {keys[3], *keys[18:]}  # the whole mask and the changes of style
    assert sum(seven["clip_whole"] > 0 for seven in made.straight["masactrl"].values()) > 9


def test_the_table_has_the_means_beside_the_published_values(made: Made) -> None:
    data = {
        row["label"]: row
        for row in csv.DictReader(io.StringIO(invoke("table", "pie-bench", made.run, "--format", "csv")))
    }
    text = invoke("table", "pie-bench", made.run)
    published = {METHODS[0]: ("direct + MasaCtrl", 24.70), METHODS[1]: ("DDIM + MasaCtrl", 28.38)}
    for method, (row, value) in published.items():
        assert data[method]["method"] == row
        assert float(data[method]["structure_distance_published"]) == value
        for name in SCALES:
            mean, count = means(made, method, name)
            assert float(data[method][name]) == pytest.approx(mean, rel=1e-4) and data[method][f"{name}_n"] == str(
                count
            )
            difference = mean - float(data[method][f"{name}_published"])
            assert float(data[method][f"{name}_difference"]) == pytest.approx(difference, rel=1e-3, abs=1e-4)
            assert data[method][f"{name}_tau"] == ""
        values = [seven["structure_distance"] * 1e3 for seven in made.straight[method].values()]
        assert float(data[method]["structure_distance_low"]) == pytest.approx(mean_interval(values).low, rel=1e-3)
    assert float(data["identity"]["psnr"]) == float("inf") and data["identity"]["psnr_published"] == ""
    assert text.count("| identity (reference) |") == 7 and text.count("(n = 2: fewer than 5)") == 7
    assert "structure distance ×10³ ↓" in text and "SD 1.4" in text and "SD 1.5 in half precision for PnP" in text
    assert "Measured (differs in data set, backbone, steps): data set PIE-Bench (18 of 20 samples)" in text
    assert "SSIM (background) ×10² ↑: not defined for 9 of 54 edits, which the means leave out." in text
    latex = invoke("table", "pie-bench", made.run, "--format", "latex")
    assert latex.isascii() and r"$\times$10$^3$" in latex


def test_a_block_of_every_editing_type(made: Made) -> None:
    sliced = ("table", "pie-bench", made.run, "--slice", "type")
    text = invoke(*sliced)
    assert "A block holds some of the samples, the published numbers all." in text
    rows = [
        row for row in csv.DictReader(io.StringIO(invoke(*sliced, "--format", "csv"))) if row["label"] == METHODS[0]
    ]
    assert [row["slice"] for row in rows] == [f"{type} {name}" for type, name in enumerate(made_data.PIE_TYPES)]
    for type, row in enumerate(rows):
        keys = [key for key in made.straight[METHODS[0]] if key.startswith(str(type))]
        values = [made.straight[METHODS[0]][key]["clip_whole"] for key in keys]
        assert float(row["clip_whole"]) == pytest.approx(np.mean(values), rel=1e-4), row["slice"]
        assert row["clip_whole_n"] == str(len(keys)) and float(row["clip_whole_published"]) == 24.38
        assert f"{row['slice']} ({len(keys)} samples): CLIPScore (whole) ↑" in text
    refused = CliRunner().invoke(app, ["table", "pie-bench", str(made.run), "--slice", "colour"])
    assert "no sample has such a tag" in str(refused.exception)


def test_what_was_edited_by_the_pocket_parts_has_no_difference(made: Made, tmp_path: Path) -> None:
    described = json.loads((made.run / "run.json").read_text())
    described["backbone"]["pocket"] = True
    pocket = tmp_path / "pocket"
    pocket.mkdir()
    for path in made.run.iterdir():
        (pocket / path.name).symlink_to(path)
    (pocket / "run.json").unlink()
    write_json(pocket / "run.json", described)
    text = invoke("table", "pie-bench", pocket)
    assert "difference |" not in text and "pocket [95 %]" in text and "not measured of comparable things" in text


def test_the_report_has_the_same_means_and_every_type(made: Made, tmp_path: Path) -> None:
    invoke("report", made.run, "--out", tmp_path / "report")
    text = unescape((tmp_path / "report" / "index.html").read_text())
    for method in METHODS[:2]:
        for name, digits in (("psnr", 2), ("clip_whole", 2), ("clip_edited", 2)):
            assert f"{means(made, method, name)[0]:.{digits}f}" in text, (method, name)
        assert f"{means(made, method, 'structure_distance')[0] / 1e3:.5f}" in text
    assert "a red dog on a chair" in text and "[dog]" not in text
    for name in made_data.PIE_TYPES:
        assert name in text
