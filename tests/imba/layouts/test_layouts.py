"""The layouts: what each reads, how it is told from the others, and what is said of a folder that is nearly one."""

from __future__ import annotations

import json
from pathlib import Path

import made_data
import numpy as np
import pytest
from made_data import box, noise, pie_entry, record
from paths import TINY
from PIL import Image
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app
from cpam_bench.imba.dataset import load, require_complete, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.pie_bench import Runs, parse_runs, without_brackets

# ---------------------------------------------------------------------------------------------------- recognising


def test_each_layout_is_told_from_the_others(tmp_path: Path) -> None:
    made_data.release(tmp_path / "imba")
    made_data.tedbench(tmp_path / "ted", ("a.jpeg", "A cat."))
    made_data.pie_bench(tmp_path / "pie", 1, size=8)
    made_data.pie_bench_plus(tmp_path / "plus")
    noise().save(tmp_path / "a.png")
    (tmp_path / "edits.csv").write_text("image,prompt\na.png,a cat\n")
    found = {name: load(tmp_path / name).layout for name in ("imba", "ted", "pie", "plus", "edits.csv")}
    assert found == {
        "imba": "release",
        "ted": "tedbench",
        "pie": "pie-bench",
        "plus": "pie-bench",
        "edits.csv": "table",
    }


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"mapping_file.json": "{}"}, "as pie-bench, mapping_file.json is here, and annotation_images/ is not"),
        ({"annotation_images/a.jpg": ""}, "mapping_file.json is not"),
        ({"input_list.json": "[]"}, "as tedbench, input_list.json is here, and originals/"),
        ({"images/a.png": "", "masks/a.png": ""}, "as release, images/ and masks/ are here, and data.json"),
        (
            {"edits.csv": "image,caption\na,b\n"},
            "its columns are image, caption; say in dataset.toml",
        ),
        ({"notes.txt": "x"}, "has no data.json; a data set is a folder"),
    ],
)
def test_a_folder_that_is_nearly_one_is_told_what_it_lacks(tmp_path: Path, there: dict[str, str], said: str) -> None:
    for name, text in there.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert said in str(error.value)


def test_two_layouts_in_one_folder_are_asked_about(tmp_path: Path) -> None:
    made_data.release(tmp_path)
    made_data.tedbench(tmp_path, ("a.jpeg", "A cat."))
    with pytest.raises(UserError, match="may be of several layouts .*release.*tedbench.*--layout"):
        load(tmp_path)
    assert load(tmp_path, "tedbench").layout == "tedbench" and load(tmp_path, "release").layout == "release"
    (tmp_path / "dataset.toml").write_text('layout = "release:threshold=100"')
    said = load(tmp_path)
    assert said.layout == "release:threshold=100" and said.why == "dataset.toml says so"
    with pytest.raises(UserError, match="unknown layout 'relase'.*did you mean release"):
        load(tmp_path, "relase")


def test_the_reading_of_masks_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    made_data.release(tmp_path)
    prints = {load(tmp_path).fingerprint, load(tmp_path, threshold=100).fingerprint}
    assert len(prints) == 2 and load(tmp_path, "release").fingerprint in prints
    with pytest.raises(UserError, match="not within 0 to 254"):
        load(tmp_path, threshold=300)
    made_data.pie_bench(tmp_path / "pie", 1, size=8)
    with pytest.raises(UserError, match="pie-bench has no masks that are read by a threshold"):
        load(tmp_path / "pie", threshold=100)


# ---------------------------------------------------------------------------------------------------- PIE-Bench


def _by_hand(runs: list[int]) -> np.ndarray:
    """The authors' definition, a pixel at a time."""
    flat = [0] * (512 * 512)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        for index in range(min(length, 512 * 512 - start)):
            flat[start + index] = 1
    mask = np.array(flat).reshape(512, 512)
    mask[0, :] = mask[-1, :] = mask[:, 0] = mask[:, -1] = 1
    return mask > 0


@pytest.mark.parametrize("runs", [[], [0, 262144], [5, 3, 512 * 200 + 500, 40], [262140, 1000]])
def test_masks_of_pie_bench_are_run_lengths_with_a_frame(runs: list[int]) -> None:
    mask = Runs(tuple(runs)).read("")
    np.testing.assert_array_equal(mask, _by_hand(runs))
    assert parse_runs(" ".join(map(str, runs))) == tuple(runs)


@pytest.mark.parametrize("text", ["1", "1 2 3", "1 -2", "a b", "1.5 2"])
def test_other_things_than_run_lengths(text: str) -> None:
    with pytest.raises(ValueError, match="field mask holds"):
        parse_runs(text)


def test_brackets_are_taken_out_and_kept() -> None:
    assert without_brackets("a [red] [dog] on a chair") == ("a red dog on a chair", ["red", "dog"])


def test_pie_bench_arrives_with_types_as_kinds_and_tags(tmp_path: Path) -> None:
    data = load(made_data.pie_bench(tmp_path))
    assert len(data) == 20 and data.records == 20
    kinds = {sample.tags[0]: (sample.kind, sample.retain_object, sample.altered) for sample in data}
    assert kinds == {
        "type=0 random": ("add", False, "foreground"),
        "type=1 change object": ("replace", False, "foreground"),
        "type=2 add object": ("add", False, "foreground"),
        "type=3 delete object": ("remove", False, "foreground"),
        "type=4 change content": ("add", False, "foreground"),
        "type=5 change pose": ("pose", True, "foreground"),
        "type=6 change color": ("add", False, "foreground"),
        "type=7 change material": ("add", False, "foreground"),
        "type=8 change background": ("background", False, "background"),
        "type=9 change style": ("add", False, "foreground"),
    }
    sample = data.samples[2]
    assert sample.id == "100000000000" and sample.target_prompt == "a dog sitting on a chair"
    assert sample.source_prompt == "a cat sitting on a chair" and sample.object_prompt == "dog"
    assert sample.edited_words == ("cat", "dog")
    assert sample.tags[1:] == ("differs=dog", "scene=natural", "subject=animal")
    assert data.samples[-1].read_mask().all()  # style: the whole picture
    rows = [value for row in range(110, 300) for value in (row * 512 + 100, 150)]
    np.testing.assert_array_equal(sample.read_mask(), _by_hand(rows))
    warnings = require_complete(data)
    assert {p.what for p in warnings} == {
        "change style is outside CPAM's kinds of edits: the whole picture is edited",
        "the whole picture is to change: there is no background to score",
    }


def test_faulty_entries_of_pie_bench_cost_no_others(tmp_path: Path) -> None:
    made_data.pie_bench(tmp_path, 1, size=8)
    entries = json.loads((tmp_path / "mapping_file.json").read_text())
    first = next(iter(entries.values()))["image_path"]
    entries |= {
        "a": "no object",
        "b": pie_entry(1, first, [1]),
        "c": pie_entry(11, first, []),
        "d": pie_entry(1, "gone.jpg", []),
        "e": pie_entry(1, "../../x.jpg", []),
        "f": pie_entry(1, first, [], editing_prompt="[]"),
        "g/h": pie_entry(1, first, []),
        "i": pie_entry(1, first, None),
    }
    (tmp_path / "mapping_file.json").write_text(json.dumps(entries))
    data = load(tmp_path)
    assert [sample.id for sample in data][10:] == ["d"] and data.records == 18
    errors = {str(p.record): str(p) for p in data.problems if p.severity == "error"}
    assert set(errors) == {"a", "b", "c", "d", "e", "f", "g/h", "i"}
    assert errors["b"].startswith("error: mapping_file.json[b]: field mask holds a start without a length")
    assert "is none of 0 to 9" in errors["c"] and "climbs out" in errors["e"] and "is empty" in errors["f"]
    assert "d, annotation_images/gone.jpg: the image is missing" in errors["d"]


def test_pie_bench_plus_is_read_for_what_it_has(tmp_path: Path) -> None:
    data = load(made_data.pie_bench_plus(tmp_path))
    first, second = data
    assert first.target_prompt == "a red dog standing on a metal chair" and first.object_prompt == "dog"
    assert first.tags == ("type=0 random", "differs=red; dog; standing; metal", "prompts=PIE-Bench++")
    assert second.kind == "background" and second.tags[0] == "type=8 change background"
    np.testing.assert_array_equal(first.read_mask(), _by_hand([0, 1000, 2000, 262144]))
    assert first.read_image().size == (512, 512) and "aspect_mapping are not read" in data.facts["PIE-Bench++"]
    assert load(tmp_path).fingerprint == data.fingerprint
    assert not [p for p in validate(data) if p.severity == "error"]


# ---------------------------------------------------------------------------------------------------- TEdBench


def test_tedbench_is_itself_and_takes_masks_where_there_are_some(tmp_path: Path) -> None:
    pairs = [("cat.jpeg", "A cat."), ("cat.jpeg", "A cat!"), ("dog.jpeg", "A dog.")]
    made_data.tedbench(tmp_path, *pairs)
    data = load(tmp_path)
    assert [s.region for s in data] == [None] * 3 and not data.problems
    assert [s.id.startswith("cat-a-cat") for s in data] == [True, True, False] and len({s.id for s in data}) == 3
    assert require_complete(data) == []
    (tmp_path / "masks").mkdir()
    Image.fromarray(box()).save(tmp_path / "masks" / "cat.png")
    masked = load(tmp_path)
    assert [s.region is not None for s in masked] == [True, True, False]
    np.testing.assert_array_equal(masked.samples[0].read_mask(), box() > 0)


def test_methods_that_need_a_mask_are_left_out_and_named(tmp_path: Path) -> None:
    made_data.tedbench(tmp_path, ("cat.jpeg", "A cat."))
    arguments = [
        "run",
        "--dataset",
        str(tmp_path),
        "--methods",
        "cpam",
        "--no-references",
        "--out",
        str(tmp_path / "r"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert "cpam need a mask, and 1 of 1 samples have none (cat-a-cat first)" in str(done.exception)


# ---------------------------------------------------------------------------------------------------- tables


def _table(root: Path, name: str, text: str, config: str = "") -> Path:
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    noise().save(root / "pictures" / "a.png")
    Image.fromarray(box()).save(root / "pictures" / "a-mask.png")
    (root / name).write_text(text)
    if config:
        (root / "dataset.toml").write_text(config)
    return root


CONFIG = """
images = "pictures"
masks = "pictures"
tags = ["scene"]
[columns]
image = "file"
prompt = "new caption"
source_prompt = "old caption"
retain = "keep"
"""
CELLS = "file,new caption,mask,keep,scene,old caption\na.png,a cat,a-mask.png,yes,indoor,a dog\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edits.csv", "file,new caption,mask,keep,scene,old caption\na.png,a cat,a-mask.png,yes,indoor,a dog\n"),
        (
            "edits.csv",
            "\ufefffile;new caption;mask;keep;scene;old caption\r\na.png;a cat;a-mask.png;yes;indoor;a dog\r\n",
        ),
        (
            "edits.tsv",
            "file\tnew caption\tmask\tkeep\tscene\told caption\na.png\ta cat\ta-mask.png\tyes\tindoor\ta dog\n",
        ),
        (
            "edits.jsonl",
            '{"file": "a.png", "new caption": "a cat", "mask": "a-mask.png", "keep": true, "scene": "indoor",'
            ' "old caption": "a dog"}\n',
        ),
    ],
)
def test_a_table_with_a_small_mapping(tmp_path: Path, name: str, text: str) -> None:
    data = load(_table(tmp_path, name, text, CONFIG))
    (sample,) = data
    assert (sample.id, sample.target_prompt, sample.source_prompt) == ("a-a-cat", "a cat", "a dog")
    assert sample.kind == "pose" and sample.retain_object and sample.tags == ("scene=indoor",)
    np.testing.assert_array_equal(sample.read_mask(), box() > 0)
    assert validate(data) == []


def test_a_parquet_table_with_pictures_in_it(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    noise().save(tmp_path / "a.png")
    packed = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    rows = [{"image": packed, "prompt": "a cat", "id": "one"}, {"image": {"bytes": b"x"}, "prompt": "b", "id": "two"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "edits.parquet")
    data = load(tmp_path / "edits.parquet")
    (sample,) = data
    np.testing.assert_array_equal(np.asarray(sample.read_image()), np.asarray(noise()))
    (problem,) = data.problems
    assert str(problem).startswith("error: edits.parquet[1]: the image in the table is damaged or no picture")


def test_faulty_rows_cost_no_others(tmp_path: Path) -> None:
    lines = ["image,prompt,kind,id", "a.png,a cat,,", "a.png,,,", "a.png,b,swap,", "../x.png,c,,", "a.png,d,,a/b"]
    lines += ["a.png,a cat,,", "gone.png,e,,", "a.png,f"]
    root = _table(tmp_path, "edits.csv", "\n".join(lines), 'images = "pictures"')
    data = load(root)
    assert [s.target_prompt for s in data] == ["a cat", "e"] and data.records == 8
    said = {p.record: p.what for p in data.problems}
    assert said[1] == "prompt is empty" and "none of replace" in said[2] and "climbs out" in said[3]
    assert "not safe" in said[4] and "repeats" in said[5] and said[6] == "the image is missing"
    assert "another number of cells" in said[7]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("images = 3", "images is no text"),
        ("[columns]\nimage = 1", "to name a column"),
        ('[columns]\nprmpt = "x"', "'prmpt' is no field; there are: image"),
        ("= nothing", "is not TOML"),
        ("layout = 4", "layout is no text"),
    ],
)
def test_a_faulty_mapping_is_told(tmp_path: Path, config: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(_table(tmp_path, "edits.csv", "image,prompt\na.png,a cat\n", config))


def test_complete_samples_alone(tmp_path: Path) -> None:
    made_data.release(tmp_path, record(), record("cat.png", "A dog."), {"img_name": "x.png"})
    (tmp_path / "images" / "cat.png").write_bytes(b"no picture")
    data = load(tmp_path)
    kept, errors = data.complete(validate(data))
    assert [s.id for s in kept] == ["dog-a-photo-of-a-cat"] and kept.fingerprint == data.fingerprint
    assert len(errors) == 6 and require_complete(kept) == []  # five fields of one record, and the damaged image
    assert list(kept.left_out) == ["cat-a-dog", "data.json[2]"] and data.left_out == {}
    assert "cannot be read" in kept.left_out["cat-a-dog"] and "target_text is missing" in kept.left_out["data.json[2]"]


def test_incomplete_samples_are_skipped_only_where_that_is_asked_for(tmp_path: Path) -> None:
    masks = {"cat.png": "empty", "dot.png": "a pixel"}
    made_data.release(tmp_path / "set", record("dog.png"), *(record(name) for name in masks), size=(512, 512))
    Image.new("L", (512, 512)).save(tmp_path / "set" / "masks" / "cat.png")
    dot = Image.new("L", (512, 512))
    dot.putpixel((3, 3), 255)
    dot.save(tmp_path / "set" / "masks" / "dot.png")
    arguments = ["run", "--dataset", str(tmp_path / "set"), "--methods", "cpam", "--no-references", "--no-score"]
    arguments += ["--backbone", str(TINY), "--steps", "1", "--device", "cpu", "--workers", "1"]
    arguments += ["--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, arguments)
    assert "the mask leaves nothing to alter (1 of 3 samples)" in str(refused.exception)
    assert "is left at the model's resolution" in str(refused.exception)
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(app, [*arguments, "--incomplete", "skip"])
    assert done.exit_code == 0, done.output
    assert "1 of 3 samples are complete" in done.stderr and "left out: the mask leaves nothing to alter" in done.stderr
    assert [path.stem for path in (tmp_path / "run" / "masks").glob("*.png")] == ["dog-a-photo-of-a-cat"]
