import hashlib
import json
import multiprocessing
import random
import time

import numpy as np
import pytest
import run_helpers
from PIL import Image
from run_helpers import Brighten, Broken, FakeBackbone, Noise, editors, run_all, samples, square, write_clip

from cpam_bench.eval.metrics.metric import DEFAULT
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.worker import edit_seed
from cpam_bench.eval.scoring import score as scoring
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import read_protocol, read_scores
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}"


def _pictures(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.png")
    }


def test_every_method_on_every_sample(tmp_path):
    chosen = editors(Brighten(), Noise())
    assert run_all(tmp_path, chosen, samples(3)) == []
    store = Store.open(tmp_path)
    edits, damaged = store.edits()
    assert [(edit.method, edit.sample) for edit in edits] == [(m, f"s{i}") for m in chosen for i in range(3)]
    assert not damaged
    assert all(edit.status == "ok" and edit.seconds > 0 and edit.inversion_seconds == 0 for edit in edits)
    assert edits[0].params == {"amount": 10} and edits[0].versions["torch"]
    source = np.asarray(Image.open(store.source_path("s0"))).astype(int)
    edit = np.asarray(Image.open(store.edit_path("brighten", "s0"))).astype(int)
    assert (edit - source == 10).all()
    assert (np.asarray(Image.open(store.mask_path("s0"))) == square() * np.uint8(255)).all()
    assert store.read_task("s0").target_prompt == "a picture of thing 0"


def test_only_some_edits_are_made(tmp_path):
    chosen = editors(Brighten(), Noise())
    todo = samples(2)
    store = Store.create_or_resume(tmp_path, run_helpers.described(chosen, todo))
    wanted = {"s0": ["noise"], "s1": ["brighten"]}
    runner.run(store, todo, chosen, FakeBackbone(), wanted=wanted, progress=False)
    assert [(edit.method, edit.sample) for edit in store.edits()[0]] == [("brighten", "s1"), ("noise", "s0")]


def test_a_second_run_redoes_nothing(tmp_path):
    chosen = editors(Brighten(), Noise())
    run_all(tmp_path, chosen, samples(2))
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.parent.name in ("brighten", "noise")
    }
    assert len(before) == 8
    run_all(tmp_path, chosen, samples(2))
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_is_damaged_is_made_anew(tmp_path):
    chosen = editors(Noise())
    run_all(tmp_path, chosen, samples(2))
    before = _pictures(tmp_path)
    store = Store.open(tmp_path)
    store.edit_path("noise", "s0").write_bytes(b"\x89PNG")
    store.edit_path("noise", "s1").with_suffix(".json").write_text("{")
    store.source_path("s1").unlink()
    assert run_all(tmp_path, chosen, samples(2)) == []
    assert _pictures(tmp_path) == before


def test_order_selection_and_company_change_nothing(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    run_all(first, editors(Noise(), Brighten()), samples(3))
    run_all(second, editors(Noise()), samples(3)[::-1][:1])
    run_all(second, editors(Brighten(), Noise()), samples(3)[::-1])
    assert _pictures(first) == _pictures(second)


def test_seeds_differ_by_run_method_and_sample(tmp_path):
    seeds = {edit_seed(run, m, s) for run in (0, 1) for m in ("a", "b") for s in ("s", "t")}
    assert len(seeds) == 8 and all(0 <= seed < 2**32 for seed in seeds)
    run_all(tmp_path / "a", editors(Noise()), samples(1))
    run_all(tmp_path / "b", editors(Noise()), samples(1), seed=1)
    name = "edits/noise/s0.png"
    assert _pictures(tmp_path / "a")[name] != _pictures(tmp_path / "b")[name]


def test_one_failure_stops_nothing_and_is_tried_again(tmp_path, capsys):
    chosen = editors(Broken(), Brighten())
    failures = run_all(tmp_path, chosen, samples(3))
    assert failures == [runner.Failure("broken", "s1", "RuntimeError: no such luck")]
    store = Store.open(tmp_path)
    record = json.loads(store.edit_path("broken", "s1").with_suffix(".json").read_text())
    assert record["status"] == "failed" and "Traceback" in record["traceback"]
    assert sum(edit.status == "ok" for edit in store.edits()[0]) == 5
    assert "failed: broken on s1: RuntimeError: no such luck" in capsys.readouterr().err
    assert run_all(tmp_path, chosen, samples(3)) == failures


@pytest.mark.parametrize("wrong", [None, Image.new("L", (64, 64)), Image.new("RGB", (32, 32))])
def test_an_editor_that_returns_something_else_fails(tmp_path, wrong, monkeypatch):
    monkeypatch.setattr(Brighten, "edit", lambda *args: wrong)
    (failure,) = run_all(tmp_path, editors(Brighten()), samples(1))
    assert "the editor returned" in failure.error


def test_a_sample_that_cannot_be_read_fails_alone(tmp_path):
    bad = Sample("bad", tmp_path / "no.png", square(), "x")
    failures = run_all(tmp_path / "run", editors(Brighten(), Noise()), [bad, *samples(1)])
    assert [(failure.method, failure.sample) for failure in failures] == [("brighten", "bad"), ("noise", "bad")]
    assert "no.png" in failures[0].error
    assert Store.open(tmp_path / "run").is_done("noise", "s0")


def test_the_shared_inversion_is_told_apart(tmp_path, monkeypatch):
    def invert(backbone, latents, steps):
        time.sleep(0.2)
        return ["z"]

    monkeypatch.setattr("cpam_bench.cpam.source.invert", invert)
    monkeypatch.setattr(FakeBackbone, "encode", lambda self, image: None, raising=False)
    edit = Brighten.edit

    def inverting(self, sample, source, seed):
        if self.amount > 0:
            assert source.trajectory == ["z"]
        return edit(self, sample, source, seed)

    monkeypatch.setattr(Brighten, "edit", inverting)
    run_all(tmp_path, editors(Brighten(0), Brighten(1), Brighten(2)), samples(1))
    none, first, second = Store.open(tmp_path).edits()[0]
    assert none.inversion_seconds == 0
    assert first.inversion_seconds == second.inversion_seconds >= 0.2
    assert first.seconds < 0.15 and second.seconds < 0.15


def test_peak_memory_is_of_this_edit(tmp_path, monkeypatch):
    edit = Brighten.edit

    def hungry(self, sample, source, seed):
        if self.amount == 1:
            np.ones(100 * 2**20, np.uint8)
        return edit(self, sample, source, seed)

    monkeypatch.setattr(Brighten, "edit", hungry)
    run_all(tmp_path, editors(Brighten(0), Brighten(1), Brighten(2)), samples(1))
    before, big, after = (edit.peak_memory_mib for edit in Store.open(tmp_path).edits()[0])
    if before is None:
        pytest.skip("this system does not tell the peak of a process anew")
    assert big > before + 80 and big > after + 80


def test_long_prompts_are_warned_of_with_where(tmp_path, caplog):
    words = " ".join(f"word{i}" for i in range(300))
    run_all(tmp_path, editors(Brighten()), [Sample("long", run_helpers.picture(0), square(), words)])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "sample long" in message and "cut before: “word20 word21" in message


def test_interrupting_leaves_a_clean_store(tmp_path, monkeypatch):
    edit = Noise.edit

    def interrupted(self, sample, source, seed):
        if sample.id == "s1":
            raise KeyboardInterrupt
        return edit(self, sample, source, seed)

    monkeypatch.setattr(Noise, "edit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path, editors(Noise()), samples(3))
    monkeypatch.undo()
    edits, damaged = Store.open(tmp_path).edits()
    assert [edit.sample for edit in edits] == ["s0"] and not damaged
    run_all(tmp_path, editors(Noise()), samples(3))
    assert len(Store.open(tmp_path).edits()[0]) == 3


# scores ---------------------------------------------------------------------------------------------------------------


def _score(folder, clip, names=None):
    with locked(folder):
        return score(Store.open(folder), names, clip)


def test_killed_runs_end_with_the_scores_of_an_undisturbed_one(tmp_path, clip):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    run_helpers.slow_run(str(calm))
    _score(calm, clip)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["run_helpers", "cpam_bench.eval.run.driver"])
    rng = random.Random(5)
    for _ in range(3):
        done = len(list(killed.rglob("edits/*/*.json")))
        process = context.Process(target=run_helpers.slow_run, args=(str(killed),))
        process.start()
        target, deadline = done + rng.randint(1, 4), time.monotonic() + 60
        while len(list(killed.rglob("edits/*/*.json"))) < target and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run should have been killed on its way"
    assert len(Store.open(killed).edits()[0]) < 18
    run_helpers.slow_run(str(killed))
    _score(killed, clip)
    assert (calm / "scores.csv").read_bytes() == (killed / "scores.csv").read_bytes()
    assert len(read_scores(calm)) == 18 * len(DEFAULT)
    assert not list(killed.rglob(".cpam-bench-*"))


def test_scores_are_kept_while_they_hold(tmp_path, clip, monkeypatch):
    run_all(tmp_path, editors(Brighten(), Noise()), samples(2))
    first = _score(tmp_path, clip).table
    text = (tmp_path / "scores.csv").read_bytes()
    calls = []
    measure = scoring.seam.measure

    def counting(batch, metrics, networks):
        calls.append(list(metrics))
        return measure(batch, metrics, networks)

    monkeypatch.setattr(scoring.seam, "measure", counting)
    again = _score(tmp_path, clip).table
    assert calls == [] and (tmp_path / "scores.csv").read_bytes() == text
    assert again.equals(first)
    # Another method: everything is measured again, in one order.
    run_all(tmp_path, editors(Brighten(20)), samples(2))
    assert len(_score(tmp_path, clip).table) == 6 * len(DEFAULT)
    assert len(calls) == 1 and len(calls[0]) == len(DEFAULT)


def test_some_metrics_are_measured_and_the_others_kept(tmp_path, clip):
    run_all(tmp_path, editors(Brighten()), samples(2))
    assert set(_score(tmp_path, clip, ["mse_background"]).table["metric"]) == {"mse_background"}
    table = _score(tmp_path, clip, ["psnr_background"]).table
    assert set(table["metric"]) == {"mse_background", "psnr_background"}
    assert set(read_protocol(tmp_path).metrics) == {"mse_background", "psnr_background"}
    with pytest.raises(UserError, match="unknown metric 'psnr'.*; there are: .*clip_score, "):
        _score(tmp_path, clip, ["psnr"])


def test_another_scorer_is_noticed(tmp_path, clip):
    run_all(tmp_path, editors(Brighten()), samples(1))
    _score(tmp_path, clip)
    protocol = json.loads((tmp_path / "scores.json").read_text())
    protocol["metrics"]["clip_score"]["weights_sha256"] = "0" * 64
    (tmp_path / "scores.json").write_text(json.dumps(protocol))
    rows = (tmp_path / "scores.csv").read_text().replace("clip_score,", "clip_score,7")
    (tmp_path / "scores.csv").write_text(rows)
    table = _score(tmp_path, clip).table.set_index("metric")["value"]
    assert table["clip_score"] < 100, "a value of another scorer must not be kept"


def test_scores_of_damaged_pictures_are_left_out_and_told(tmp_path, clip):
    run_all(tmp_path, editors(Brighten()), samples(2))
    Store.open(tmp_path).edit_path("brighten", "s0").write_bytes(b"")
    scores = _score(tmp_path, clip)
    assert set(scores.table["sample"]) == {"s1"}
    assert len(scores.damaged) == 1 and "s0.png" in scores.damaged[0]


def test_scores_tell_of_prompts_that_the_scorer_cuts(tmp_path, clip):
    prompt = " ".join(["dog"] * 14 + ["cat"])
    run_all(tmp_path, editors(Brighten()), [Sample("long", run_helpers.picture(0), square(), prompt)])
    (line,) = _score(tmp_path, clip).truncated
    assert "sample long" in line and "… cat" in line


def test_a_sample_without_a_mask_has_no_background(tmp_path, clip):
    run_all(tmp_path, editors(Brighten()), [Sample("bare", run_helpers.picture(0), None, "a dog")])
    table = _score(tmp_path, clip).table.set_index("metric")["value"]
    assert np.isnan(table["lpips_background"]) and np.isnan(table["clip_score_region"])
    assert table["clip_score"] >= 0


def test_damaged_scores_are_told(tmp_path):
    with pytest.raises(UserError, match="cpam-bench score"):
        read_scores(tmp_path)
    (tmp_path / "scores.csv").write_text("method,sample\n")
    with pytest.raises(UserError, match="damaged"):
        read_scores(tmp_path)
    with pytest.raises(UserError, match=r"scores\.json"):
        read_protocol(tmp_path)
