import importlib.metadata
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from run_helpers import FakeBackbone, method_file, picture, write_clip, write_dataset

import cpam_bench.eval.commands.main
from cpam_bench.eval.methods import registry

GROUP = registry.EDITORS.name


def _point(name, value):
    return importlib.metadata.EntryPoint(name, value, GROUP)


@pytest.fixture(autouse=True)
def points(monkeypatch):
    """The editors of the tests in place of the installed ones, the three reference rows among them."""
    found = {
        "brighten": "run_helpers:Brighten",
        "noise": "run_helpers:Noise",
        "broken": "run_helpers:Broken",
        "identity": "run_helpers:Brighten",
        "reconstruction": "run_helpers:Brighten",
        "ddim": "run_helpers:Noise",
        "ddim-paste": "run_helpers:Noise",
    }
    installed = importlib.metadata.entry_points

    def entry_points(**chosen):
        if chosen.get("group") != GROUP:
            return installed(**chosen)
        return [_point(name, value) for name, value in found.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return found


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}"


@pytest.fixture
def backbone(monkeypatch):
    from cpam_bench.cpam.backbone import Backbone

    monkeypatch.setattr(Backbone, "load", lambda name, **_: FakeBackbone())


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["cpam-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cpam_bench.eval.commands.main.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return ended.value.code or 0, out, err

    return call


@pytest.fixture
def started(cli, backbone, clip, tmp_path):
    """A run of the test editors over two samples, and how to give its command again with changes."""
    data = write_dataset(tmp_path / "data")

    def run(*more, methods="noise,brighten"):
        arguments = ["--methods", methods, "--dataset", data, "--out", tmp_path / "run", "--clip", clip]
        return cli("run", *arguments, "--device", "cpu", "--workers", "1", *more)

    run.folder = tmp_path / "run"
    return run


def test_help_does_not_import_torch():
    heavy = "('torch', 'diffusers', 'pandas')"
    code = f"import sys, cpam_bench.eval.commands.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [[], ["run"], ["score"], ["leaderboard"], ["methods"], ["data"], ["study"]])
def test_help_of_every_command(cli, command):
    code, out, _ = cli(*command, "--help")
    assert code == 0 and "Usage" in out


def test_run_edits_scores_and_prints_the_table(started):
    code, out, err = started()
    assert code == 0, err
    folder = started.folder
    assert "CLIPScore" in out and "pocket leaderboard" in out and str(folder / "leaderboard.csv") in out
    table = pd.read_csv(folder / "leaderboard.csv")
    assert set(table["method"]) == {"noise", "brighten", "identity", "reconstruction", "ddim", "ddim-paste"}
    assert set(table["n"]) == {2}
    stored = json.loads((folder / "run.json").read_text())
    assert stored["arguments"]["methods"] == "noise,brighten" and stored["arguments"]["references"] is True
    assert stored["methods"]["noise"]["parameters"] == {"scale": 20.0, "delay": 0.0}
    assert stored["machine"]["processor"] is not None and stored["versions"]["torch"]
    scores = (folder / "scores.csv").read_bytes()
    records = {path: path.stat().st_mtime_ns for path in (folder / "edits").rglob("*.json")}
    code, _, _ = started()
    assert code == 0 and (folder / "scores.csv").read_bytes() == scores
    assert records == {path: path.stat().st_mtime_ns for path in records}


def test_limit_references_and_more_methods(started):
    code, _, _ = started("--no-references", "--limit", "1", methods="brighten:amount=3")
    assert code == 0
    assert pd.read_csv(started.folder / "leaderboard.csv")[["method", "n"]].values.tolist() == [
        ["brighten:amount=3", 1]
    ]
    code, _, _ = started("--no-references", methods="brighten:amount=3,noise:delay=0,scale=3")
    assert code == 0
    table = pd.read_csv(started.folder / "leaderboard.csv")
    assert table[["method", "n"]].values.tolist() == [["brighten:amount=3", 2], ["noise:scale=3", 2]]


@pytest.mark.slow
def test_all_methods_and_ready_made_pictures(started, tmp_path, points):
    points["lost"] = "no_such_module:Editor"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(2):
        picture(i).save(pictures / f"p{i}.png-A_red_thing.png")
    code, _, err = started("--import", f"mine={pictures}", methods="all,noise:scale=3,broken:on=nothing")
    assert code == 0, err
    assert "broken, left out: method 'lost'" in err
    table = pd.read_csv(started.folder / "leaderboard.csv")
    # The test's reference rows are ordinary editors, so all takes them too.
    references = ["identity", "reconstruction", "ddim", "ddim-paste"]
    assert set(table["method"]) == {"brighten", "noise:scale=3", "broken:on=nothing", "mine", *references}
    assert set(table["n"]) == {2}
    paired = pd.read_csv(started.folder / "paired.csv")
    assert "mine" in set(paired["method"]) | set(paired["against"])
    (pictures / "p0.png-A_red_thing.png").rename(tmp_path / "p0.png")
    code, _, err = started("--import", f"part={pictures}", methods="noise:scale=3")
    assert code == 1 and "no picture of 1 of 2 samples (p0-a-red-thing); these edits will fail" in err
    assert "part has no picture of it; name it" in err


def test_another_command_into_the_same_folder_is_refused(started):
    assert started("--no-references")[0] == 0
    code, _, err = started("--no-references", "--steps", "20", "--seed", "4")
    assert code == 2
    assert "steps: 50 -> 20" in err and "seed: 0 -> 4" in err and "--out" in err


def test_failed_edits_are_listed_and_exit_with_1(started):
    code, out, err = started("--no-references", methods="broken:on=p1,brighten")
    assert code == 1
    assert "1 edits failed" in err and "broken:on=p1 on p1" in err and "no such luck" in err
    assert "CLIPScore" in out
    assert "Note: broken:on=p1 failed on p1-a-red-thing (RuntimeError: no such luck)" in out


def test_interrupted_runs_say_how_to_go_on(started, monkeypatch):
    from run_helpers import Noise

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Noise, "edit", stop)
    code, _, err = started("--no-references")
    assert code == 130 and "same command continues" in err


def test_a_full_disk_is_one_message_and_exit_1(started, monkeypatch):
    from cpam_bench.eval.store import store
    from cpam_bench.imba.errors import DiskFull

    write = store.write_png

    def full(path, image):
        if path.parent.name == "noise":
            raise DiskFull(f"the disk is full: {path}")
        return write(path, image)

    monkeypatch.setattr(store, "write_png", full)
    code, _, err = started("--no-references")
    assert code == 1 and "Error: the disk is full" in err
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--methods", "brigthen"], ["unknown method 'brigthen'", "did you mean brighten", "noise"]),
        (["run", "--methods", "noise:scal=3"], ["no parameter 'scal'", "did you mean scale", "delay"]),
        (["run", "--methods", "noise:scale=much"], ["scale=much does not fit", "a number", "default 20"]),
        (["run", "--methods", "noise=3"], ["unknown method 'noise=3'", "--import"]),
        (["run", "--methods", "noise", "--import", "mine=/no/such"], ["folder /no/such does not exist"]),
        (["run", "--methods", "noise", "--import", "/no/such"], ["'/no/such' is not NAME=FOLDER"]),
        (["run", "--methods", " , "], ["no methods are given"]),
        (["run", "--methods", "noise", "--dataset", "/no/such"], ["/no/such"]),
        (["run", "--methods", "noise", "--device", "tpu"], ["unknown device 'tpu'"]),
        (["run", "--methods", "noise", "--device", "cuda:99"], ["--device cuda:99"]),
        (["run", "--methods", "noise", "--backbone", "/no/such"], ["/no/such"]),
        (["run", "--dtype", "int8"], ["int8"]),
        (["run", "--fit", "stretch"], ["stretch"]),
        (["run", "--method-file", "/no/such.py:Mine"], ["/no/such.py cannot be read"]),
        (["run", "--limit", "0"], ["--limit"]),
        (["run", "--nonsense"], ["--nonsense"]),
        (["methods", "nothing"], ["unknown method 'nothing'"]),
        (["score", "/no/such"], ["no run.json"]),
        (["leaderboard", "/no/such"], ["no run.json"]),
        (["leaderboard"], ["RUN"]),
        (["nothing"], ["nothing"]),
    ],
)
def test_misuse_is_one_message_and_exit_2(cli, tmp_path, arguments, words):
    if arguments[0] == "run" and "--dataset" not in arguments:
        arguments = [*arguments, "--dataset", write_dataset(tmp_path / "data"), "--out", tmp_path / "run"]
    code, _, err = cli(*arguments)
    assert code == 2
    for word in words:
        assert word in err, err
    assert not (tmp_path / "run").exists()


def test_an_incomplete_data_set_stops_before_editing(started, tmp_path):
    (tmp_path / "data" / "masks" / "p1.png").unlink()
    code, _, err = started()
    assert code == 2 and "p1.png" in err
    assert not started.folder.exists()


def test_score_with_chosen_metrics_and_a_damaged_picture(started, cli, clip):
    assert started("--no-references")[0] == 0
    folder = started.folder
    before = pd.read_csv(folder / "scores.csv")
    (folder / "scores.csv").unlink()
    code, out, _ = cli("score", folder, "--metrics", "clip_score,lpips_background", "--clip", clip, "--device", "cpu")
    assert code == 0 and "scores.csv" in out
    after = pd.read_csv(folder / "scores.csv")
    chosen = before[before["metric"].isin(["clip_score", "lpips_background"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(after, chosen)
    (folder / "edits" / "noise" / "p0-a-red-thing.png").write_bytes(b"")
    code, _, err = cli("score", folder, "--metrics", "mse_background", "--device", "cpu")
    assert code == 1 and "damaged" in err and "p0-a-red-thing.png" in err
    code, _, err = cli("score", folder, "--metrics", "beauty")
    assert code == 2 and "unknown metric 'beauty'" in err


def test_leaderboard_prints_and_writes(started, cli, tmp_path):
    assert started("--no-references")[0] == 0
    code, out, _ = cli("leaderboard", started.folder, "--csv", tmp_path / "table.csv")
    assert code == 0 and "noise" in out
    assert (tmp_path / "table.csv").read_bytes() == (started.folder / "leaderboard.csv").read_bytes()


def test_methods_lists_editors_and_survives_a_broken_one(cli, points):
    points |= {"lost": "no_such_module:Editor", "odd": "run_helpers:picture"}
    code, out, err = cli("methods")
    assert code == 0
    assert "brighten" in out and "local edit" in out and "fine tuned" in out and "✓" in out
    assert "broken: method 'lost'" in err and "No module named 'no_such_module'" in err
    assert "broken: method 'odd'" in err and "is not a method" in err
    code, _, err = cli("run", "--methods", "lost")
    assert code == 2 and "cannot be loaded" in err


def test_methods_shows_parameters_with_their_sources(cli):
    for arguments in (["methods", "noise"], ["methods", "--parameters"]):
        code, out, _ = cli(*arguments)
        assert code == 0
        for word in ("scale", "a number", "20", "standard deviation", "the test"):
            assert word in out
    assert "what is added" in out


def test_steps_out_of_range_are_refused_before_editing(started):
    code, _, err = started("--steps", "1000")
    assert code == 2 and "steps must be between 1 and 999, not 1000" in err
    assert not (started.folder / "run.json").exists()


def test_pictures_that_are_not_square_are_fitted_as_is_asked(started, tmp_path):
    """The data set's pictures are 80 x 60, marked from 20 to 60 and from 20 to 40."""
    code, _, err = started("--fit", "crop", "--no-score", "--no-references", methods="brighten")
    assert code == 0, err
    protocol = json.loads((started.folder / "run.json").read_text())["protocol"]
    assert "cropped to the largest square around what is marked, resized" in protocol["images"] + protocol["masks"]
    stored = np.asarray(Image.open(next((started.folder / "masks").glob("*.png")))) > 0
    assert stored.mean() == pytest.approx(40 * 20 / 60**2, rel=0.03)
    code, _, err = started("--no-score", "--no-references", methods="brighten")
    assert code == 2 and "protocol.images" in err
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 5:75] = 255
    Image.fromarray(mask).save(tmp_path / "data" / "masks" / "p0.png")
    code, _, err = started("--fit", "crop", "--out", tmp_path / "other", "--incomplete", "refuse", methods="brighten")
    assert code == 2 and "would lose a part of what is marked (1 of 2 samples): p0-a-red-thing. Take --fit pad" in err
    assert not (tmp_path / "other").exists()


def test_a_method_out_of_a_file_runs_beside_others(started, tmp_path):
    (tmp_path / "mine.py").write_text(method_file("mine"))
    given = ("--method-file", tmp_path / "mine.py:Mine", "--no-score", "--no-references")
    try:
        assert started(*given, methods="noise,mine:by=2")[0] == 0
        assert started(*given, methods="noise")[0] == 0
    finally:
        registry.EDITORS.given.clear()
    assert {path.name for path in (started.folder / "edits").iterdir()} == {"noise", "mine", "mine@by-2"}
    run = json.loads((started.folder / "run.json").read_text())
    assert run["arguments"]["method_file"] == ["mine.py:Mine"] and str(tmp_path / "mine.py") not in json.dumps(run)


def test_edit_now_and_score_later(started, monkeypatch):
    """Without a score no scorer is loaded, so that none need be there."""

    def unreachable(*_):
        raise AssertionError("a scorer was loaded")

    monkeypatch.setattr("cpam_bench.eval.run.execute.load_clip", unreachable)
    code, _, err = started("--no-score")
    assert code == 0 and f"cpam-bench score {started.folder}" in err
    assert not (started.folder / "scores.csv").exists()
    monkeypatch.undo()


def test_only_the_samples_that_are_named(started):
    code, _, err = started("--samples", "nobody", "--no-score")
    assert code == 2 and "no sample nobody" in err
    code, _, _ = started("--samples", "p1-a-red-thing", "--no-score", "--no-references")
    assert code == 0
    assert [path.stem for path in started.folder.rglob("edits/brighten/*.json")] == ["p1-a-red-thing"]
