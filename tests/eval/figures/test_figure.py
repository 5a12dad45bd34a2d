from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_helpers import RESOLUTION, Brighten, Broken, Noise, editors, run_all, samples, write_clip

from cpam_bench.eval.figures.figure5 import choose, figure
from cpam_bench.eval.figures.sheet import GAP
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import Scored, read_scores
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pictures import outline


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_all(folder, editors(Brighten(), Noise(), Broken("s1")), samples(4))
    clip = f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}"
    score(Store.open(folder), clip=clip)
    return Store.open(folder)


def test_cells_hold_the_source_the_region_and_the_edits(store: Store) -> None:
    sheet = np.asarray(figure(store, ["s0", "s2"], ["brighten", "noise"], edge=RESOLUTION)).astype(int)
    assert sheet.shape[1] == 4 * (RESOLUTION + GAP) + GAP
    with Image.open(store.edit_path("brighten", "s0")) as file:
        wanted = np.asarray(file).astype(int)
    left = GAP + 2 * (RESOLUTION + GAP)
    column = sheet[:, left : left + RESOLUTION]
    tops = [y for y in range(len(column) - RESOLUTION) if (column[y : y + RESOLUTION] == wanted).all()]
    assert len(tops) == 1
    rows = slice(tops[0], tops[0] + RESOLUTION)
    source = sheet[rows, GAP : GAP + RESOLUTION]
    region = sheet[rows, 2 * GAP + RESOLUTION : 2 * GAP + 2 * RESOLUTION]
    changed = (source != region).any(-1)
    with Image.open(store.mask_path("s0")) as file:
        region_of = np.asarray(file) > 0
    assert (changed == (region_of | outline(region_of)[1])).mean() > 0.99


def test_rows_are_picked_by_difference_or_seeded_chance(store: Store) -> None:
    scores, scored = read_scores(store.folder), Scored.open(store.folder)
    table = scores[scores["metric"] == "clip_score"].pivot(index="sample", columns="method", values="value")
    order = (table["brighten"] - table["noise"]).sort_values().index.tolist()
    assert choose(scored, ["brighten", "noise"], "loss", 2) == order[:2]
    assert choose(scored, ["brighten", "noise"], "gain", 2) == order[::-1][:2]
    assert choose(scored, ["noise"], "random", 3, seed=1) == choose(
        Scored.open(store.folder), ["noise"], "random", 3, seed=1
    )
    assert "s1" not in choose(scored, ["noise", "broken:on=s1"], "random", 4)


def test_what_cannot_be_drawn_is_said(store: Store) -> None:
    with pytest.raises(UserError, match="no sample"):
        figure(store, ["nobody"], ["noise"])
    with pytest.raises(UserError, match="has no edit of s1"):
        figure(store, ["s1"], ["broken:on=s1"])
    with pytest.raises(UserError, match="has no scores of other"):
        choose(Scored.open(store.folder), ["other"], "random", 1)
    with pytest.raises(UserError, match="at least two"):
        choose(Scored.open(store.folder), ["noise"], "gain", 1)


def test_command_writes_png_and_pdf(store: Store, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from cpam_bench.eval.commands.main import app

    for name in ("sheet.png", "sheet.pdf"):
        result = CliRunner().invoke(
            app,
            ["figure", str(store.folder), "--out", str(tmp_path / name), "--samples", "s0,s3", "--methods", "noise"],
        )
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).stat().st_size > 1000
