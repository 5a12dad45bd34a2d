"""verify, rerun and status read a run from its folder alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import TINY
from PIL import Image
from rich.console import Console
from run_helpers import Brighten, Broken, Noise, described, editors, run_all, samples, write_clip, write_dataset
from typer.testing import CliRunner

import cpam_bench.imba.dataset
from cpam_bench.eval.audit import status as status_module
from cpam_bench.eval.audit.rerun import rerun
from cpam_bench.eval.audit.status import render, status
from cpam_bench.eval.audit.verify import verify
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.metrics.metric import DEFAULT
from cpam_bench.eval.run.execute import execute
from cpam_bench.eval.run.settings import Settings
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.store.derived import note
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.samples import stored_sample
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, clip: str) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "run"
    run_all(folder, editors(Brighten(), Noise()), samples(3))
    with locked(folder):
        score(Store.open(folder), clip=clip)
    return folder


@pytest.fixture
def folder(scored: Path, tmp_path: Path) -> Path:
    """A run that has been copied elsewhere."""
    return Path(shutil.copytree(scored, tmp_path / "moved"))


def test_a_copied_run_verifies(folder: Path) -> None:
    found = verify(folder)
    assert found.wrong == [] and found.unchecked == []
    assert found.files == 3 * 3 + 2 * 3 * 2
    assert found.scores == 2 * len(DEFAULT)
    called = CliRunner().invoke(app, ["verify", str(folder)])
    assert called.exit_code == 0 and "20 scores measured again, 0 wrong" in called.output


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def change_a_score(folder: Path) -> None:
    lines = (folder / "scores.csv").read_text().splitlines()
    lines = [f"{line.rpartition(',')[0]},3.25" if ",mse_background," in line else line for line in lines]
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")


def signed(name: str, damage: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A damage whose author has mended the hash as well."""

    def both(folder: Path) -> None:
        damage(folder)
        note(folder, [name])

    return both


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: flip(run / "edits/noise/s1.png"), "edits/noise/s1.png has changed"),
        (lambda run: flip(run / "sources/s0.png"), "sources/s0.png has changed"),
        (lambda run: (run / "masks/s2.png").unlink(), "masks/s2.png cannot be read"),
        (lambda run: (run / "edits/noise/s1.json").unlink(), "edits/noise/s1.png has no record"),
        (lambda run: edit_json(run / "edits/noise/s1.json", seed=3), "its seed 3 does not follow"),
        (lambda run: edit_json(run / "edits/noise/s1.json", params={}), "its parameters are not those of noise"),
        (lambda run: (run / "edits/noise/s9.png").write_bytes(b""), "edits/noise/s9.png belongs to no sample"),
        (lambda run: edit_json(run / "sources/s1.json", target_prompt="x"), "was measured of other pictures"),
        (change_a_score, "scores.csv has changed"),
        (signed("scores.csv", change_a_score), "mse_background of noise on s"),
        (
            signed("scores.csv", lambda run: (run / "scores.csv").write_text("method,sample,metric,value\n")),
            "does not hold one score",
        ),
        (signed("scores.json", lambda run: (run / "scores.json").write_text("{")), "scores.json cannot be read"),
    ],
)
def test_what_differs_is_named(folder: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(folder)
    assert any(words in line for line in verify(folder).wrong), verify(folder).wrong
    called = CliRunner().invoke(app, ["verify", str(folder)])
    assert called.exit_code == 1 and words.rpartition("/")[2][:12] in called.output


def test_scores_of_a_scorer_that_is_not_at_hand_are_told(folder: Path, clip: str) -> None:
    protocol = json.loads((folder / "scores.json").read_text())
    for metric in protocol["metrics"].values():
        if "context_length" in metric:
            metric["scorer"] = "local-dir:/no/such"
    (folder / "scores.json").write_text(json.dumps(protocol))
    note(folder, ["scores.json"])
    found = verify(folder)
    assert found.wrong == []
    assert [line.partition(":")[0] for line in found.unchecked] == ["clip_score, clip_score_region"]
    assert found.scores == 2 * (len(DEFAULT) - 2)
    assert verify(folder, clip=clip).scores == 2 * len(DEFAULT)


# rerun ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, clip: str) -> Path:
    """A run of the tiny backbone in batches, one of its samples of a background."""
    root = write_dataset(tmp_path_factory.mktemp("data") / "set", count=3)
    records = json.loads((root / "data.json").read_text())
    records[1]["object"] = "background"
    (root / "data.json").write_text(json.dumps(records))
    folder = tmp_path_factory.mktemp("rerun") / "run"
    settings = Settings(backbone=str(TINY), steps=3, device="cpu", clip=clip, batch=2, threads=1)
    outcome = execute(cpam_bench.imba.dataset.load(root), ["cpam", "masactrl:step=1", "identity"], folder, settings)
    assert outcome.failures == [] and len(outcome.board.rows) == 3
    assert Store.open(folder).run.batch == 2
    return folder


@pytest.mark.slow
def test_edits_made_again_are_the_same(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "moved")
    repeats = rerun(folder, count=20)
    assert len(repeats) == 9 and [one.largest for one in repeats] == [0] * 9 and not any(one.error for one in repeats)
    assert rerun(folder, 2, seed=1) != rerun(folder, 2, seed=2)


def test_words_that_a_data_set_annotates_are_there_again(tmp_path: Path, clip: str) -> None:
    """Without them Prompt-to-Prompt neither blends nor reweights, and the edit is another."""
    root = write_dataset(tmp_path / "set", count=1)
    (record,) = json.loads((root / "data.json").read_text())
    record |= {"source_prompt": "a red dog", "target_text": "a red thing", "edited_words": ["dog", "thing"]}
    (root / "data.json").write_text(json.dumps([record]))
    settings = Settings(backbone=str(TINY), steps=3, device="cpu", clip=clip, threads=1)
    label = "p2p-nti:blend_by=annotation,inversion=ddim,reweight=5.0"
    outcome = execute(cpam_bench.imba.dataset.load(root), [label], tmp_path / "run", settings, measure=False)
    assert outcome.failures == []
    (again,) = rerun(tmp_path / "run", 1)
    assert again.error is None and again.largest == 0
    store = Store.open(tmp_path / "run")
    (id,) = store.run.samples
    assert stored_sample(store, id).edited_words == ("dog", "thing")
    task = store.read_task(id)
    assert task is not None
    store.write_task(dataclasses.replace(task, edited_words=None), store.read_source(task), store.read_mask(task))
    (otherwise,) = rerun(tmp_path / "run", 1)
    assert otherwise.error is None and otherwise.largest > 0


def test_an_edit_that_comes_out_otherwise_is_told(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "moved"))
    store = Store.open(folder)
    for edit in store.edits()[0]:
        path = store.edit_path(edit.method, edit.sample)
        picture = np.asarray(Image.open(path)).copy()
        picture[3, 3, 0] ^= 4
        store.write_edit(edit, Image.fromarray(picture))
    called = CliRunner().invoke(app, ["rerun", str(folder), "--check", "2"])
    assert called.exit_code == 1, called.output
    assert "by at most 4 of 255" in called.output and "0 of 2 edits are as they were" in called.output
    assert CliRunner().invoke(app, ["rerun", str(folder), "--check", "1", "--tolerance", "4"]).exit_code == 0


def test_an_edit_whose_method_is_gone_is_told(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "moved"))
    data = json.loads((folder / "run.json").read_text())
    data["methods"] = {"lost": data["methods"]["identity"]}
    (folder / "run.json").write_text(json.dumps(data))
    shutil.move(folder / "edits/identity", folder / "edits/lost")
    for path in (folder / "edits/lost").glob("*.json"):
        edit_json(path, method="lost")
    (repeat,) = rerun(folder, 1)
    assert "unknown method 'lost'" in str(repeat)


def test_ready_made_pictures_are_not_made_again(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "moved"))
    store = Store.open(folder)
    label = f"mine={tmp_path / 'gone'}"
    for id in store.run.samples:
        edit = store.read_edit("identity", id)
        assert edit is not None
        store.write_edit(dataclasses.replace(edit, method=label), Image.open(store.edit_path("identity", id)))
    data = json.loads((folder / "run.json").read_text())
    # As early versions noted it.
    ready_made = {"method": label, "parameters": {"called": "mine", "folder": str(tmp_path / "gone")}}
    data["methods"] = {"identity": data["methods"]["identity"], label: data["methods"]["identity"] | ready_made}
    (folder / "run.json").write_text(json.dumps(data))
    assert [one.method for one in rerun(folder, 20)] == ["identity"] * 3
    data["methods"] = {label: data["methods"][label]}
    (folder / "run.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="no edit that could be made again"):
        rerun(folder)


def test_another_backbone_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other weights"):
        rerun(made, 1, backbone="pocket")


def test_a_stored_sample_is_what_was_edited(made: Path) -> None:
    store = Store.open(made)
    flipped = [stored_sample(store, id) for id in store.run.samples]
    assert [sample.altered for sample in flipped] == ["foreground", "background", "foreground"]
    for sample in flipped:
        stored = np.asarray(Image.open(store.mask_path(sample.id))) > 127
        assert (sample.read_mask() == stored).all()


# status ---------------------------------------------------------------------------------------------------------------


def test_status_counts_and_foretells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = editors(Broken(), Brighten())
    run_all(tmp_path, chosen, samples(3))
    Store.create_or_resume(tmp_path, described(editors(Noise()), samples(4)))
    found = status(tmp_path)
    assert [(row.method, row.done, row.failed, row.pending) for row in found.methods] == [
        ("broken", 2, 1, 1),
        ("brighten", 3, 0, 1),
        ("noise", 0, 0, 4),
    ]
    assert found.holder is None and found.rate is None
    with locked(tmp_path):
        assert status(tmp_path).rate is None  # nothing since
        store = Store.open(tmp_path)
        for sample in ("s0", "s1"):
            store.write_edit(store.read_edit("brighten", sample), Image.open(store.edit_path("brighten", sample)))
        now = time.time()
        monkeypatch.setattr(status_module.time, "time", lambda: now + 10)
        found = status(tmp_path)
    assert found.holder is not None
    assert found.rate == pytest.approx(0.2, rel=0.05)
    assert found.left == pytest.approx((1 + 1 + 1 + 4) / 0.2, rel=0.05)  # the failed one is tried again
    console = Console(width=200)
    with console.capture() as printed:
        console.print(render(found))
    assert "edits a minute, about 0:00:3" in printed.get()


def test_status_from_the_command_line(tmp_path: Path) -> None:
    run_all(tmp_path, editors(Broken(), Brighten()), samples(2))
    called = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert called.exit_code == 0
    assert "failed: broken on s1: RuntimeError: no such luck" in called.output
    assert "nobody is working on it; 1 edits are left" in called.output
    with locked(tmp_path):
        assert "process" in CliRunner().invoke(app, ["status", str(tmp_path)]).output
