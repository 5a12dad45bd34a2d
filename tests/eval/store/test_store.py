import errno
import json
import multiprocessing
import os
import shutil
import threading
from dataclasses import asdict, replace
from time import sleep
from types import SimpleNamespace

import pytest
from run_helpers import Brighten, Noise, described, editors, picture, run_all, samples, square
from small_disk import remount, small_disk

from cpam_bench.eval.store import store as store_module
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.records import Edit, Task
from cpam_bench.eval.store.store import Store, slug
from cpam_bench.imba.common.files import write_atomic, write_rows
from cpam_bench.imba.errors import Damaged, DiskFull, UserError


@pytest.fixture
def store(tmp_path):
    return Store.create_or_resume(tmp_path / "run", described(editors(Brighten()), samples(2)))


def _edit(sample="s0", status="ok"):
    return Edit("brighten", sample, status, {"amount": 10}, seed=1, seconds=0.5, peak_memory_mib=1.0)


def test_an_edit_comes_back_as_it_was(store):
    assert not store.is_done("brighten", "s0")
    store.write_edit(_edit(), picture(1))
    assert store.is_done("brighten", "s0")
    read = store.read_edit("brighten", "s0")
    assert replace(read, image_sha256=None) == _edit()
    assert store.edits() == ([read], [])


def test_a_task_comes_back_as_it_was(store):
    task = Task("s0", "a red dog", "dog", "background", True, "pose", None, None, True)
    store.write_task(task, picture(1), square(), picture(2))
    read = store.read_task("s0")
    assert replace(read, image_sha256="", mask_sha256=None, truth_sha256=None) == task
    assert store.truth_path("s0").is_file()


def test_a_failed_edit_is_not_done_and_takes_its_old_picture_away(store):
    store.write_edit(_edit(), picture(1))
    store.write_edit(replace(_edit(status="failed"), error="ValueError: no"))
    assert not store.is_done("brighten", "s0")
    assert not store.edit_path("brighten", "s0").exists()


def test_run_json_round_trip(store):
    again = Store.open(store.folder)
    assert again.run == store.run
    assert again.run.methods["brighten"].parameters == {"amount": 10}


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_picture_is_found(store, damage):
    store.write_edit(_edit(), picture(1))
    path = store.edit_path("brighten", "s0")
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(Damaged, match=r"s0\.png"):
        store.read_edit("brighten", "s0")
    assert not store.is_done("brighten", "s0")
    edits, damaged = store.edits()
    assert not edits and "s0.png" in damaged[0]


@pytest.mark.parametrize("text", ["{", "[]", "{}", ""])
def test_a_damaged_record_is_found(store, text):
    store.write_edit(_edit(), picture(1))
    store.edit_path("brighten", "s0").with_suffix(".json").write_text(text)
    with pytest.raises(Damaged, match=r"s0\.json"):
        store.read_edit("brighten", "s0")
    assert not store.is_done("brighten", "s0")


def test_a_record_of_another_edit_is_not_taken(store):
    store.write_edit(_edit("s1"), picture(1))
    for suffix in (".png", ".json"):
        shutil.copy(
            store.edit_path("brighten", "s1").with_suffix(suffix), store.edit_path("brighten", "s0").with_suffix(suffix)
        )
    assert not store.is_done("brighten", "s0")


def test_a_damaged_source_is_found(store):
    store.write_task(Task("s0", "a dog"), picture(1), square())
    assert store.has_task("s0")
    store.mask_path("s0").write_bytes(b"")
    assert not store.has_task("s0")


def test_same_settings_resume_and_more_methods_and_samples_extend(store):
    folder = store.folder
    assert Store.create_or_resume(folder, described(editors(Brighten()), samples(2))).run == store.run
    more = Store.create_or_resume(folder, described(editors(Noise(), Brighten(5)), samples(3)))
    assert list(more.run.methods) == ["brighten", "noise", "brighten:amount=5"]
    assert more.run.samples == ["s0", "s1", "s2"]
    fewer = Store.create_or_resume(folder, described(editors(Noise()), samples(1)))
    assert fewer.run.samples == more.run.samples
    assert Store.open(folder).run == more.run


@pytest.mark.parametrize(
    ("changes", "line"),
    [({"steps": 6}, "steps: 5 -> 6"), ({"seed": 1}, "seed: 0 -> 1"), ({"dtype": "float16"}, "dtype:")],
)
def test_other_settings_are_refused_with_what_differs(store, changes, line):
    before = (store.folder / "run.json").read_bytes()
    with pytest.raises(UserError, match="made differently") as error:
        Store.create_or_resume(store.folder, described(editors(Brighten()), samples(2), **changes))
    assert line in str(error.value) and str(error.value).count("->") == 2  # one in the heading
    assert (store.folder / "run.json").read_bytes() == before


def test_other_data_weights_and_defaults_are_refused(store):
    run = store.run
    others = {
        "dataset.fingerprint": replace(run, dataset=replace(run.dataset, fingerprint="0" * 64)),
        "backbone.weights.unet": replace(run, backbone=replace(run.backbone, weights={"unet": "b" * 64})),
        "backbone.weights.vae": replace(
            run, backbone=replace(run.backbone, weights={"unet": "a" * 64, "vae": "b" * 64})
        ),
        "methods.brighten.amount": replace(
            run, methods={"brighten": replace(run.methods["brighten"], parameters={"amount": 11})}
        ),
    }
    for key, other in others.items():
        with pytest.raises(UserError) as error:
            Store.create_or_resume(store.folder, other)
        assert f"{key}: " in str(error.value)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        Store.create_or_resume(tmp_path, described(editors(Brighten()), samples(1)))


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no run\.json"):
        Store.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Store.open(tmp_path)


def test_half_written_files_are_cleared_away(store):
    part = store.folder / "edits" / ".cpam-bench-0f.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    Store.create_or_resume(store.folder, store.run)
    assert not part.exists()


def test_slugs_are_safe_and_tell_labels_apart():
    assert slug("cpam") == "cpam"
    assert slug("cpam:guidance=5,localization=false") == "cpam@guidance-5+localization-false"
    labels = ["m:file=a/b", "m:file=a_b", "m:file=../b", "m:x=" + "y" * 300, "m:x=" + "y" * 301]
    slugs = [slug(label) for label in labels]
    assert len(set(slugs)) == len(labels)
    assert all("/" not in name and len(name) < 200 for name in slugs)


def _hold(folder, ready, done):
    with locked(folder):
        ready.set()
        done.wait(20)


@pytest.mark.slow
def test_two_processes_cannot_work_in_one_folder(tmp_path):
    context = multiprocessing.get_context("forkserver")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    try:
        assert ready.wait(600)
        with pytest.raises(UserError, match=f"process {process.pid} on "), locked(tmp_path):
            pass
    finally:
        done.set()
        process.join(20)
    with locked(tmp_path):  # the lock goes with its holder
        pass


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="make room"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_names_what_else_is_wrong(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "inner", b"")


def test_a_disk_that_fills_up(tmp_path):
    """A real one, where it can be had: a small tmpfs."""
    with small_disk(tmp_path / "disk", "160k") as disk:
        chosen = editors(Noise(), Noise(scale=40.0))
        with pytest.raises(DiskFull, match="make room"):
            run_all(disk / "run", chosen, samples(8))
        store = Store.open(disk / "run")
        edits, damaged = store.edits()
        assert 0 < len(edits) < 16 and not damaged
        assert not list(disk.rglob(".cpam-bench-*"))
        kept = {edit.image_sha256 for edit in edits}
        remount(disk, "size=4m")
        assert run_all(disk / "run", chosen, samples(8)) == []
        edits, damaged = Store.open(disk / "run").edits()
        assert len(edits) == 16 and not damaged
        assert kept <= {edit.image_sha256 for edit in edits}


def test_rows_keep_every_digit(tmp_path):
    write_rows(tmp_path / "t.csv", ["a", "b"], [("x,y", 0.1 + 0.2), ("z", float("nan"))])
    assert (tmp_path / "t.csv").read_text() == 'a,b\n"x,y",0.30000000000000004\nz,\n'


def test_records_are_plain_json(store):
    store.write_edit(_edit(), picture(1))
    data = json.loads(store.edit_path("brighten", "s0").with_suffix(".json").read_text())
    assert set(data) == set(asdict(_edit())) - {"more", "mask_read"}
    assert store_module.Edit(**data).status == "ok"


def test_a_folder_in_the_place_of_the_lock_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"\.lock cannot be written: it is a folder"), locked(tmp_path):
        pass


@pytest.mark.parametrize(("seconds_of_the_processor", "threads"), [(0.9, 0), (0.1, 3)])
def test_items_are_read_by_threads_where_reading_waits(monkeypatch, seconds_of_the_processor, threads):
    wall, own = iter([0.0, 1.0]), iter([0.0, seconds_of_the_processor])
    clocks = SimpleNamespace(perf_counter=lambda: next(wall), thread_time=lambda: next(own))
    monkeypatch.setattr(store_module, "time", clocks)
    others = set()

    def double(item):
        sleep(0.001)
        others.add(threading.get_ident())
        return 2 * item

    assert store_module.at_once(double, range(200)) == [2 * item for item in range(200)]
    assert len(others - {threading.get_ident()}) >= threads and (threads or len(others) == 1)
