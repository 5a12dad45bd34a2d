"""The same pictures under other protocols: the default's numbers are the run's, and what moves is what was changed."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from run_helpers import Brighten, Noise, editors, run_all, samples, write_clip
from typer.testing import CliRunner

from cpam_bench.eval.analysis import sensitivity as module
from cpam_bench.eval.analysis.sensitivity import sensitivity
from cpam_bench.eval.analysis.statistics import mean_interval
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.metrics.filters import FILTERS
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import read_scores
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_all(folder, editors(Brighten(), Brighten(60), Noise()), samples(3))
    score(Store.open(folder), clip=f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Torchvision's weights are looked for in an empty folder, and nothing is fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def away(*arguments: Any, **options: Any) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", away)


def test_the_default_is_the_run_itself(run: Path) -> None:
    found = sensitivity(run, trunks=["alex"], progress=False)
    assert found.unavailable == found.notes == []
    scores = read_scores(run)
    default = found.rows[found.rows["default"]]
    assert set(default["metric"]) == {"clip_score", "lpips_background"} and len(default) == 6
    for row in default.to_dict("records"):
        mine = (scores["method"] == row["method"]) & (scores["metric"] == row["metric"])
        expected = mean_interval(scores.loc[mine, "value"])
        assert [row[key] for key in ("mean", "low", "high", "n")] == pytest.approx(
            [expected.mean, expected.low, expected.high, expected.n], rel=1e-5
        )
        assert row["difference"] == 0 and row["tau"] == 1 and row["ranks_changed"] == 0
    rows = found.rows.set_index(["protocol", "method"])["mean"].astype(float)
    spatial = scores[scores["metric"] == "lpips_background_spatial"].groupby("method")["value"].mean()
    for method, value in spatial.items():
        assert rows["LPIPS alex, spatial, size of the run", method] == pytest.approx(value, rel=1e-5)
    assert found.rows["protocol"].nunique() == len(FILTERS) + 2 * (1 + len(FILTERS))
    # Every choice moves something.
    table = rows.unstack("method")
    for kind in ("CLIP", "LPIPS"):
        chosen = table[table.index.str.startswith(kind)].round(9)
        assert not chosen.duplicated().any()


def test_ranks_and_tau_are_to_the_default(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.measure_protocols

    def measure(*arguments: Any) -> list[list[float]]:
        values = real(*arguments)
        by_name = {protocol.name: i for i, protocol in enumerate(arguments[3])}
        best = [float(i // 3) for i in range(9)]  # an edit's value is its method's number
        values[by_name["LPIPS alex, masked, size of the run"]] = best
        values[by_name["LPIPS alex, spatial, size of the run"]] = best[::-1]
        values[by_name["LPIPS alex, masked, half the size, nearest"]] = [best[i] for i in (0, 0, 0, 6, 6, 6, 3, 3, 3)]
        return values

    monkeypatch.setattr(module, "measure_protocols", measure)
    rows = sensitivity(run, trunks=["alex"], progress=False).rows.set_index(["protocol", "method"])
    methods = list(Store.open(run).run.methods)
    usual = rows.loc["LPIPS alex, masked, size of the run"]
    assert [usual.loc[method, "rank"] for method in methods] == [1, 2, 3]
    turned = rows.loc["LPIPS alex, spatial, size of the run"]
    assert [turned.loc[method, "rank"] for method in methods] == [3, 2, 1]
    assert set(turned["tau"]) == {-1.0} and set(turned["ranks_changed"]) == {2}
    assert [turned.loc[method, "difference"] for method in methods] == [2, 0, -2]
    swapped = rows.loc["LPIPS alex, masked, half the size, nearest"]
    assert set(swapped["tau"].astype(float).round(6)) == {round(1 / 3, 6)} and set(swapped["ranks_changed"]) == {2}


def test_filters_are_what_they_are_called() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    by_name = {chosen.words: np.asarray(chosen.picture(image, 32)).astype(int) for chosen in FILTERS.values()}
    assert all(picture.shape == (32, 32, 3) for picture in by_name.values())
    # At half the size bilinear without antialiasing is the mean of two by two pixels; smoothing spreads wider.
    pixels = np.asarray(image).astype(float).reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(by_name["bilinear, not antialiased"] - pixels).max() <= 1
    assert by_name["bilinear"].std() < by_name["bilinear, not antialiased"].std() < by_name["nearest"].std()


def test_models_that_cannot_be_had_are_named_and_those_at_hand_are_used(run: Path, tmp_path: Path) -> None:
    found = sensitivity(run, clips=["local-dir:/no/such"], progress=False)
    assert len(found.unavailable) == 3
    assert "/no/such" in found.unavailable[0]
    assert "vgg" in found.unavailable[1] and "no network" in found.unavailable[1]
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in found.unavailable[2]

    # Torchvision's own loading, from a file where it looks for it.
    network = torchvision.models.squeezenet1_1(weights=None)
    name = Path(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url).name
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), tmp_path / "torch" / "hub" / "checkpoints" / name)
    other = f"local-dir:{write_clip(tmp_path / 'other')}"
    found = sensitivity(run, clips=[other, other], trunks=["squeeze"], progress=False)
    assert found.unavailable == []
    words = set(found.rows["protocol"])
    assert "LPIPS squeeze, spatial, half the size, lanczos" in words
    assert any(re.fullmatch(r"CLIP other \(\w{8}\), nearest", word) for word in words)
    assert (
        found.rows.set_index("protocol")
        .loc["LPIPS squeeze, masked, size of the run", "scorer"]
        .iloc[0]
        .endswith("v0.1")
    )


def test_command(run: Path, tmp_path: Path) -> None:
    before = (run / "scores.csv").read_bytes()
    done = CliRunner().invoke(app, ["sensitivity", str(run), "--csv", str(tmp_path / "s.csv"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    for words in ("Kendall's tau", "ranks changed", "(default)", "Not at hand: LPIPS with vgg", "brighten:amount=60"):
        assert words in done.output
    assert list(pd.read_csv(tmp_path / "s.csv").columns) == module.COLUMNS
    assert (run / "scores.csv").read_bytes() == before
    wrong = CliRunner().invoke(app, ["sensitivity", str(run), "--trunks", "alexa"])
    assert isinstance(wrong.exception, UserError) and "unknown trunk 'alexa'" in str(wrong.exception)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    run_all(tmp_path / "run", editors(Brighten()), samples(1))
    with pytest.raises(UserError, match="has not been scored"):
        sensitivity(tmp_path / "run")
