"""Data sets in the authors' layout: what is read, what is refused, and how it is said."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import box, noise
from paths import POCKET
from PIL import Image

from cpam_bench.imba.dataset import Problem, load, require_complete, summarize, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.release import ReleaseMask
from cpam_bench.imba.pictures import MaskFile
from cpam_bench.imba.sample import Sample


def record(img_name: str = "dog.png", target_text: str = "A photo of a cat.", **fields: Any) -> dict[str, Any]:
    named = "a cat" if "a cat" in str(target_text) else ""
    return {
        "img_name": img_name,
        "target_text": target_text,
        "object": "foreground",
        "alter_mask": None,
        "retain_object": False,
        "object_prompt": named,
    } | fields


def picture(path: Path, size: tuple[int, int] = (20, 16), format: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(size).save(path, format=format)


def dataset(
    root: Path, records: Any, size: tuple[int, int] = (20, 16), masks: dict[str, np.ndarray] | None = None
) -> Path:
    """A data set with a picture and a mask for each record, or the masks given."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.json").write_text(json.dumps(records))
    (root / "masks").mkdir(exist_ok=True)
    for item in records if isinstance(records, list) else []:
        name = item.get("img_name") if isinstance(item, dict) else None
        if isinstance(name, str) and name:
            picture(root / "images" / name, size)
            mask = item.get("alter_mask") or Path(name).stem
            values = (masks or {}).get(mask, box(size))
            Image.fromarray(values).save(root / "masks" / f"{mask}.png")
    return root


def one_problem(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


# ---------------------------------------------------------------------------------------------------- reading a sample


@pytest.mark.parametrize(
    ("shape", "channel"),
    [((4, 5), None), ((4, 5, 1), 0), ((4, 5, 2), 0), ((4, 5, 3), 0), ((4, 5, 4), 1)],
)
def test_the_mask_is_read_from_the_channel_of_the_layout(shape: tuple[int, ...], channel: int | None) -> None:
    values = np.zeros(shape, np.uint8)
    inside = (slice(1, 3), slice(2, 4))
    if channel is None:
        values[inside] = 1  # any value but zero counts
    else:
        values[...] = 255
        values[..., channel] = 0
        values[(*inside, channel)] = 7
    expected = np.zeros((4, 5), bool)
    expected[inside] = True
    np.testing.assert_array_equal(ReleaseMask(Path("m.png")).channel(values) > 0, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_every_png_mode_mean_the_same(tmp_path: Path, mode: str) -> None:
    expected = box() > 0
    if mode == "I;16":
        image = Image.fromarray(expected.astype(np.uint16) * 65535)
    elif mode == "P":  # index 0 is the *white* of the object here
        image = Image.fromarray((~expected).astype(np.uint8), mode="P")
        image.putpalette([255, 255, 255, 0, 0, 0])
    else:
        image = Image.fromarray(expected.astype(np.uint8) * 255).convert(mode)
    image.save(tmp_path / "m.png")
    for region in (ReleaseMask(tmp_path / "m.png"), MaskFile(tmp_path / "m.png")):
        mask = Sample("s", Image.new("RGB", (20, 16)), region, "p").read_mask()
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)


def test_a_background_sample_alters_the_complement_of_its_object(tmp_path: Path) -> None:
    (sample,) = load(dataset(tmp_path, [record(object="background")]))
    np.testing.assert_array_equal(sample.read_mask(), box() == 0)
    # In memory the region is M_s, whatever is altered.
    here = Sample("s", Image.new("RGB", (20, 16)), box() > 0, "p", altered="background")
    np.testing.assert_array_equal(here.read_mask(), box() > 0)
    np.testing.assert_array_equal(sample.loaded().read_mask(), box() == 0)


def test_the_image_is_rgb_and_its_format_is_told_from_its_content(tmp_path: Path) -> None:
    picture(tmp_path / "bird.png", format="JPEG")
    assert Sample("s", tmp_path / "bird.png", None, "p").read_image().mode == "RGB"
    rgba = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert Sample("s", rgba, None, "p").read_image().getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_anywhere_is_one_clear_message(tmp_path: Path, format: str) -> None:
    buffer = io.BytesIO()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, format)
    whole = buffer.getvalue()
    path = tmp_path / "cut.img"
    for length in {0, 1, 7, 8, 20, 30, 33, 45, 60, *range(100, len(whole) - 60, max(1, len(whole) // 25))}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"sample s: image .*cut\.img cannot be read.*Fetch it again"):
            Sample("s", path, None, "p").read_image()


def test_a_sample_without_its_files_says_so(tmp_path: Path) -> None:
    sample = Sample("s", tmp_path / "no.png", None, "p")
    with pytest.raises(UserError, match=r"sample s: image .*no\.png does not exist"):
        sample.read_image()
    with pytest.raises(UserError, match="sample s has no mask"):
        sample.read_mask()


# ---------------------------------------------------------------------------------------------------- loading


def test_a_record_arrives_typed(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set", [record(alter_mask="dog_hat", object="object", retain_object=True)])
    data = load(root)
    (sample,) = data
    assert data.name == "set" and not data.is_pocket and not data.problems
    assert sample == Sample(
        id="dog-a-photo-of-a-cat",
        image=root / "images" / "dog.png",
        region=ReleaseMask(root / "masks" / "dog_hat.png"),
        target_prompt="A photo of a cat.",
        object_prompt="a cat",
        altered="object",
        retain_object=True,
        kind="pose",
    )
    assert data["dog-a-photo-of-a-cat"] is sample


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "replace"),
        ({"retain_object": True}, "pose"),
        ({"object": "background", "retain_object": True}, "background"),
        ({"kind": "remove", "retain_object": True}, "remove"),
    ],
)
def test_the_kind_follows_from_the_release_unless_it_is_given(
    tmp_path: Path, fields: dict[str, Any], kind: str
) -> None:
    (sample,) = load(dataset(tmp_path, [record(**fields)]))
    assert sample.kind == kind


def test_ids_do_not_depend_on_the_order_of_records(tmp_path: Path) -> None:
    records = [
        record("dog.png", "Two birds!"),
        record("dog.jpg", "two birds"),  # the same slug, another picture
        record("dog.png", "Two birds", retain_object=True),  # the same slug, another task
        record("Größe Ä.png", "日本語"),  # nothing that a plain file name can hold
        record("dog.png", "word " * 300),
    ]
    ids = {s.target_prompt + str(s.image) + s.kind: s.id for s in load(dataset(tmp_path / "a", records))}
    back = {s.target_prompt + str(s.image) + s.kind: s.id for s in load(dataset(tmp_path / "a", records[::-1]))}
    assert ids == back
    assert len({id.lower() for id in ids.values()}) == 5
    assert all(id.isascii() and len(id) < 130 and not set(id) & set('/\\:*?"<>| .') for id in ids.values())


def test_duplicates_are_kept_numbered_and_named(tmp_path: Path) -> None:
    data = load(dataset(tmp_path, [record(), record("cat.png"), record()]))
    assert [s.id for s in data] == ["dog-a-photo-of-a-cat", "cat-a-photo-of-a-cat", "dog-a-photo-of-a-cat-2"]
    problem = one_problem(data.problems)
    assert problem.severity == "warning" and problem.record == 2
    assert "repeats data.json[0]" in str(problem)


def test_given_ids_are_kept_and_their_faults_named(tmp_path: Path) -> None:
    data = load(
        dataset(tmp_path, [record(id="one"), record("b.png", id="../two"), record("c.png", id="x"), record(id="x")])
    )
    ids = [s.id for s in data]
    assert ids[0] == "one" and ids[1] == "b-a-photo-of-a-cat" and len(set(ids)) == 4
    unsafe = [p for p in data.problems if "not safe" in p.what]
    shared = [p for p in data.problems if "used by several" in p.what]
    assert [p.record for p in unsafe] == [1] and [p.record for p in shared] == [2, 3]


@pytest.mark.parametrize("field", list(record()))
def test_a_missing_field_names_record_image_and_mend(tmp_path: Path, field: str) -> None:
    broken = record("cat.png")
    del broken[field]
    data = load(dataset(tmp_path, [record(), broken]))
    problem = one_problem(data.problems)
    assert len(data) == 1 and data.records == 2
    assert (problem.severity, problem.record) == ("error", 1)
    assert field == "img_name" or problem.file == "cat.png"
    assert f"field {field} is missing. Give" in str(problem)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retain_object", "yes"),
        ("retain_object", 1),
        ("object", "sky"),
        ("img_name", ""),
        ("img_name", None),
        ("target_text", 7),
        ("target_text", "\ud800"),
        ("alter_mask", False),
        ("kind", "swap"),
        ("several_objects", None),
    ],
)
def test_a_wrong_field_is_a_problem_and_not_a_guess(tmp_path: Path, field: str, value: Any) -> None:
    data = load(dataset(tmp_path, [record("cat.png"), record(**{field: value})]))
    problem = one_problem(data.problems)
    assert problem.severity == "error" and problem.record == 1 and len(data) == 1
    assert f"field {field} is wrong" in str(problem)


def test_other_things_than_records(tmp_path: Path) -> None:
    data = load(dataset(tmp_path, [None, [], record(), "x"]))
    assert [p.record for p in data.problems] == [0, 1, 3] and len(data) == 1
    assert "holds no record" in str(one_problem(load(dataset(tmp_path / "empty", [])).problems))


def test_a_misspelt_field_is_told(tmp_path: Path) -> None:
    problem = one_problem(load(dataset(tmp_path, [record(kinds="remove")])).problems)
    assert problem.severity == "warning" and "'kinds'" in problem.what


@pytest.mark.parametrize(
    "fields",
    [
        {"img_name": "../../etc/passwd"},
        {"img_name": "/etc/passwd"},
        {"img_name": "a/../../../x.png"},
        {"img_name": "..\\..\\x.png"},
        {"img_name": "C:\\x.png"},
        {"img_name": "link.png"},
        {"img_name": "loop.png"},
        {"img_name": "linked/secret.png"},
        {"img_name": "a\0.png"},
        {"alter_mask": "../../secret"},
        {"alter_mask": "/tmp/secret"},
        {"truth": "../secret.png"},
    ],
)
def test_paths_that_climb_out_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    picture(tmp_path / "secret.png")
    root = dataset(tmp_path / "set", [record()])
    (root / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "images" / "loop.png").symlink_to(root / "images" / "loop.png")
    (root / "images" / "linked").symlink_to(tmp_path)
    (root / "data.json").write_text(json.dumps([record(**fields), record(target_text="fine")]))
    data = load(root)
    assert [s.target_prompt for s in data] == ["fine"]
    problem = one_problem(data.problems)
    assert problem.severity == "error" and problem.record == 0 and "refused" in problem.what
    with pytest.raises(UserError, match="refused"):
        require_complete(data)


def test_a_data_set_reached_through_a_link_is_fine(tmp_path: Path) -> None:
    dataset(tmp_path / "real", [record()])
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    assert validate(load(tmp_path / "alias")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no data.json"),
        (b"[{", r"is not JSON \(.*line 1"),
        (b"{}", "holds a dict, where a list"),
        (b"\xff\xfe[]", "is not UTF-8"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_an_unusable_data_json(tmp_path: Path, text: bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / "data.json").write_bytes(text)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_no_such_data_set() -> None:
    with pytest.raises(UserError, match="there is no data set imbaa"):
        load("imbaa")


def test_another_folder_called_pocket_is_not_the_embedded_benchmark(tmp_path: Path) -> None:
    assert not load(dataset(tmp_path / "pocket", [record()])).is_pocket
    assert load("pocket").is_pocket


def test_a_copy_of_the_embedded_benchmark_is_known(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(POCKET)
    shutil.copytree(POCKET, tmp_path / "copied")
    assert load(tmp_path / "copied").is_pocket and load(tmp_path / "mine").name == "pocket"


# ---------------------------------------------------------------------------------------------------- validating


def test_missing_files_are_named_and_the_samples_stay(tmp_path: Path) -> None:
    root = dataset(tmp_path, [record(), record("cat.png"), record("cat.png", "A dog.", truth="t.png")])
    (root / "images" / "cat.png").unlink()
    (root / "masks" / "dog.png").unlink()
    data = load(root)
    assert len(data) == 3
    found = Counter((p.severity, p.what, p.file) for p in data.problems)
    assert found == {
        ("error", "the image is missing", "images/cat.png"): 2,
        ("error", "the mask is missing", "masks/dog.png"): 1,
        ("warning", "the truth is missing", "truth/t.png"): 1,
    }
    assert validate(data) == data.problems
    with pytest.raises(UserError) as error:
        require_complete(data)
    assert "the image is missing (2 of 3 samples): images/cat.png." in str(error.value)
    assert "truth" not in str(error.value)


def test_a_truncated_image_is_reported_once_a_sample(tmp_path: Path) -> None:
    root = dataset(tmp_path, [record(), record(target_text="other"), record("cat.png")])
    path = root / "images" / "dog.png"
    path.write_bytes(path.read_bytes()[:300])
    problems = validate(load(root))
    assert [(p.severity, p.file, "damaged" in p.what) for p in problems] == [("error", "images/dog.png", True)] * 2
    (line,) = summarize(problems, 3)
    assert line.count("images/dog.png") == 1 and "2 of 3 samples" in line


def test_a_damaged_mask_is_an_error_and_a_damaged_truth_a_warning(tmp_path: Path) -> None:
    root = dataset(tmp_path, [record(truth="t.png")])
    (root / "masks" / "dog.png").write_bytes(b"no picture")
    (root / "truth").mkdir()
    (root / "truth" / "t.png").write_bytes(b"no picture")
    found = {(p.severity, p.file) for p in validate(load(root))}
    assert found == {("error", "masks/dog.png"), ("warning", "truth/t.png")}


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    problem = one_problem(validate(load(dataset(tmp_path, [record()], masks={"dog": box((16, 21))}))))
    assert problem.severity == "error" and problem.file == "masks/dog.png" and problem.sample
    assert "16 x 21" in problem.what and "Resize the mask" in problem.mend


@pytest.mark.parametrize(
    ("value", "altered", "severity", "words"),
    [
        (0, "foreground", "error", "the mask leaves nothing to alter"),
        (255, "foreground", "warning", "the whole picture is to change: there is no background to score"),
        (0, "background", "warning", "the whole picture is to change: there is no background to score"),
        (255, "background", "error", "the mask leaves nothing to alter"),
    ],
)
def test_masks_of_one_value(tmp_path: Path, value: int, altered: str, severity: str, words: str) -> None:
    flat = np.full((16, 20), value, np.uint8)
    problem = one_problem(validate(load(dataset(tmp_path, [record(object=altered)], masks={"dog": flat}))))
    assert problem.severity == severity and words in problem.what


def test_a_very_long_image_works_with_a_warning(tmp_path: Path) -> None:
    data = load(dataset(tmp_path, [record()], size=(4000, 30)))
    (warning,) = require_complete(data)
    assert warning.severity == "warning" and "4000 x 30" in warning.what
    assert data.samples[0].read_image().size == (4000, 30)


def test_an_exif_rotation_is_told(tmp_path: Path) -> None:
    root = dataset(tmp_path, [record("dog.jpg")])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 16)).save(root / "images" / "dog.jpg", exif=exif)
    problem = one_problem(validate(load(root)))
    assert problem.severity == "warning" and "EXIF" in problem.what


def test_a_selection_keeps_its_own_problems_and_the_fingerprint(tmp_path: Path) -> None:
    root = dataset(tmp_path, [record(), record("cat.png"), "no record"])
    (root / "masks" / "cat.png").unlink()
    data = load(root)
    first = data.first(1)
    assert len(first) == 1 and first.fingerprint == data.fingerprint
    assert [p.record for p in first.problems] == [2]  # no sample's, so it concerns every selection
    assert data.first(None) == data


def test_the_fingerprint_follows_contents_and_nothing_else(tmp_path: Path) -> None:
    root = dataset(tmp_path / "a", [record()])
    before = load(root).fingerprint
    (root / "data.json").write_text(json.dumps([record()], indent=4))
    (root / "notes.txt").write_text("no part of it")
    assert load(root.rename(tmp_path / "b")).fingerprint == before
    root = tmp_path / "b"
    (root / "masks" / "dog.png").rename(root / "masks" / "away.png")
    without = load(root).fingerprint
    Image.fromarray(255 - box()).save(root / "masks" / "dog.png")
    assert len({before, without, load(root).fingerprint}) == 3
    (root / "data.json").write_text(json.dumps([record(retain_object=True)]))
    assert load(root).fingerprint not in {before, without}


def test_as_a_hugging_face_data_set() -> None:
    pocket = load("pocket").first(2)
    rows = pocket.to_hf()
    assert rows.num_rows == 2
    sample = pocket.samples[1]
    row = rows[1]
    assert row["id"] == sample.id and row["retain_object"] is sample.retain_object
    np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(sample.read_image()))
    np.testing.assert_array_equal(np.asarray(row["mask"]) != 0, sample.read_mask())
