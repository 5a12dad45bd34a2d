"""What is exported, reported or printed of a run says nothing of where its parts lie on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
from paths import TINY
from PIL import Image
from run_helpers import write_clip, write_dataset
from typer.testing import CliRunner

from cpam_bench.eval.audit.status import status
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.run.execute import execute
from cpam_bench.eval.run.settings import Settings
from cpam_bench.eval.store.records import plain
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.dataset import load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose data set, backbone, scorer and pictures are all given by their paths.

    One of its edits has failed with a message that names a file.
    """
    root = tmp_path_factory.mktemp("secret")
    data = load(write_dataset(root / "data" / "pocket"))
    (root / "models").mkdir()
    (root / "models" / "sd").symlink_to(TINY)
    (root / "pictures").mkdir()
    Image.new("RGB", (80, 60), "red").save(root / "pictures" / f"{data.samples[0].id}.png")
    (root / "pictures" / f"{data.samples[1].id}.png").write_bytes(b"no picture")
    clip = f"local-dir:{write_clip(root / 'models' / 'clip')}"
    settings = Settings(str(root / "models" / "sd"), steps=2, device="cpu", clip=clip, workers=1)
    labels = ["identity", f"mine={root / 'pictures'}"]
    outcome = execute(data, labels, root / "run", settings, arguments={"out": str(root / "run")})
    assert [failure.method for failure in outcome.failures] == ["mine"]
    assert str(root) in outcome.failures[0].error
    return root


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def readable(path: Path) -> bytes:
    """A file's bytes; of a Parquet file its texts, which are packed there."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    return json.dumps(pyarrow.parquet.read_table(path).to_pylist(), default=str).encode()


def test_nothing_that_is_shared_holds_a_path(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made / "run"
    monkeypatch.chdir(made)
    invoke("export", "run", "--out", tmp_path / "export")
    invoke("report", "run", "--out", tmp_path / "report")
    invoke("figure", "run", "--out", tmp_path / "figure.png", "--methods", "mine", "--samples", "p0-a-red-thing")
    printed = [invoke("leaderboard", "run", "--csv", tmp_path / "board.csv")]
    printed += [invoke("table", "2", "run", "--format", format) for format in ("md", "csv", "latex")]
    printed += [status(run).title, json.dumps(plain(Store.open(run).run.shared()))]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert str(made).encode() not in readable(path), path
    for text in printed:
        assert str(made) not in text.replace("\n", "") and "sd (" in text
    assert "sd (" in (tmp_path / "report" / "index.html").read_text()
    # Names tell what was used, and hashes which of that name.
    told = json.loads((tmp_path / "export" / "run.json").read_text())
    unet = told["backbone"]["weights"]["unet"]
    assert told["backbone"]["name"] == f"sd ({unet[:8]})"
    assert told["dataset"]["name"] == f"pocket-{told['dataset']['fingerprint'][:8]}"
    clip = json.loads((tmp_path / "export" / "scores.json").read_text())["metrics"]["clip_score"]
    assert clip["scorer"] == f"clip ({clip['weights_sha256'][:8]})"


def test_the_run_itself_can_still_be_gone_on_with(made: Path) -> None:
    assert Store.open(made / "run").run.backbone.name == str(made / "models" / "sd")
    assert "0 wrong" in invoke("verify", made / "run")


def test_two_runs_in_folders_of_one_name_are_told_apart_without_their_places(made: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(made / "run", tmp_path / "run"))
    told = invoke("leaderboard", made / "run", again)
    assert "identity [run 1]" in told and "identity [run 2]" in told and str(tmp_path) not in told
