"""Records, names and prompts as people have them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from made_data import box, noise, record, release, tedbench
from PIL import Image
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app
from cpam_bench.imba.dataset import load, require_complete, summarize, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.problems import Problem, printable, shown

# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a" * 300 + ".png", ".", "./", "a/.", "x/" * 200, "\ud800.png"])
@pytest.mark.parametrize("field", ["img_name", "alter_mask", "truth"])
def test_names_that_are_none_cost_no_others(tmp_path: Path, name: str, field: str) -> None:
    release(tmp_path, record("good.png"), record("dog.png"))
    records = [record("good.png"), record("dog.png") | {field: name}]
    (tmp_path / "data.json").write_text(json.dumps(records))
    data = load(tmp_path)
    kept, _ = data.complete(validate(data))
    assert kept.samples[0].id == "good-a-photo-of-a-cat"
    assert data.problems and all(len(str(problem)) < 700 for problem in data.problems)


def test_a_colon_is_a_letter_like_another(tmp_path: Path) -> None:
    release(tmp_path, record("a:b.png"))
    assert validate(load(tmp_path)) == []


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_by_their_normal_form(tmp_path: Path, written: str, on_disk: str) -> None:
    name = "Löwe é.png"
    release(tmp_path, record(unicodedata.normalize(written, name)))
    for folder in ("images", "masks"):
        path = tmp_path / folder / unicodedata.normalize(written, name)
        path.rename(path.with_name(unicodedata.normalize(on_disk, name)))
    data = load(tmp_path)
    assert validate(data) == [] and data.samples[0].read_mask().any()


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_so_are_the_folders_that_they_are_in(tmp_path: Path, written: str, on_disk: str) -> None:
    name = "Tiere/Vögel/Löwe é.png"
    here = unicodedata.normalize(on_disk, name)
    for folder in ("images", "masks"):
        (tmp_path / folder / here).parent.mkdir(parents=True)
    noise().save(tmp_path / "images" / here)
    Image.fromarray(box()).save(tmp_path / "masks" / here)
    (tmp_path / "data.json").write_text(json.dumps([record(unicodedata.normalize(written, name))]))
    data = load(tmp_path)
    assert validate(data) == [] and data.samples[0].read_mask().any()


def test_masks_of_tedbench_are_found_so_too(tmp_path: Path) -> None:
    tedbench(tmp_path, (unicodedata.normalize("NFC", "Löwe.png"), "a lion"))
    (tmp_path / "masks").mkdir()
    Image.fromarray(box()).save(tmp_path / "masks" / unicodedata.normalize("NFD", "Löwe.png"))
    (sample,) = load(tmp_path).samples
    assert sample.read_mask().any()


def test_terminal_escapes_are_printed_as_text(tmp_path: Path) -> None:
    name = "\x1b[2J\u202edog.png"
    release(tmp_path, record(name), record("cat.png", "A \x1b]0;title\x07 cat."))
    (tmp_path / "images" / name).unlink()
    data = load(tmp_path)
    lines = [*map(str, validate(data)), *summarize(validate(data), 2)]
    with pytest.raises(UserError) as error:
        require_complete(data)
    assert r"\x1b[2J\u202edog.png" in "\n".join(lines) and r"\x1b[2J" in str(error.value)
    done = CliRunner().invoke(app, ["data", "validate", str(tmp_path)])
    info = CliRunner().invoke(app, ["data", "info", str(tmp_path)])
    for text in (*lines, str(error.value), done.output, info.output):
        assert not set(text) & set("\x1b\u202e\x07")


def test_text_of_others_is_shown_short_and_as_text() -> None:
    assert printable("a\x00b\nc\td\x9b") == "a\\x00b\nc\td\\x9b"
    assert shown("a\nb") == "a b" and shown("x" * 400_000) == "x" * 80 + "... (400000 characters)"
    assert "\x1b" not in str(Problem("error", "\x1b", "mend")) and "Größe 日本" in str(UserError("Größe 日本"))


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" + "1" * 5000 + "]", "is not JSON"),
        ('[{"img_name": ' + "1" * 5000 + "}]", "is not JSON"),
        ("\x00", "is not JSON"),
        ("", "is not JSON"),
        ('{"img_name": "a.png"}\n{"img_name": "b.png"}\n', "is JSON lines.*--layout table"),
        ('{"000000000000": {"image_path": "a.jpg"}}', "holds a dict, where a list"),
    ],
)
def test_records_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=said):
        load(tmp_path)


def test_records_in_a_folder_of_that_name_or_in_utf16(tmp_path: Path) -> None:
    (tmp_path / "a" / "data.json").mkdir(parents=True)
    with pytest.raises(UserError, match="is no regular file"):
        load(tmp_path / "a")
    (tmp_path / "data.json").write_bytes(json.dumps([record()]).encode("utf-16"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800"])
def test_a_data_set_of_an_impossible_name(name: str) -> None:
    with pytest.raises(UserError, match="there is no data set"):
        load(name)


# ---------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("fields", "severity", "words"),
    [
        ({"target_text": "  \t "}, "error", "the target prompt is blank"),
        ({"object_prompt": "a dog"}, "warning", "the object prompt is not in the target prompt"),
        ({"source_prompt": "a photo of a cat"}, "warning", "source and target caption are equal"),
        ({"target_text": "A photo of a [cat]."}, "warning", "has square brackets, as PIE-Bench's have"),
        ({"target_text": "猫の写真"}, "warning", "in another script than Latin"),
        ({"target_text": "Фото кота"}, "warning", "in another script than Latin"),
        ({"kind": "background"}, "warning", 'kind "background" contradicts object "foreground"'),
        ({"object": "background", "kind": "replace"}, "warning", 'kind "replace" contradicts object "background"'),
    ],
)
def test_prompts_and_flags_are_looked_at(tmp_path: Path, fields: dict[str, Any], severity: str, words: str) -> None:
    release(tmp_path, record(**fields))
    found = [(problem.severity, problem.what) for problem in load(tmp_path).problems]
    assert any(one == severity and words in what for one, what in found), found
    assert len(found) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"object_prompt": "A Cat"},
        {"object_prompt": "the dog", "kind": "remove"},
        {"target_text": "Ein süßes Kätzchen, 100 %!"},
        {"target_text": "😀 a cat"},
    ],
)
def test_good_prompts_are_left_alone(tmp_path: Path, fields: dict[str, Any]) -> None:
    release(tmp_path, record(**fields))
    assert load(tmp_path).problems == []


def test_a_prompt_of_400_kilobytes_is_not_echoed(tmp_path: Path) -> None:
    long = "word " * 80_000
    release(tmp_path, record(target_text=long), record("cat.png", long, object_prompt=long, kind=long))
    data = load(tmp_path)
    lines = [*map(str, validate(data)), *summarize(validate(data), 2)]
    assert lines and max(map(len, lines)) < 1000
    assert len(data.samples[0].id) < 130


def test_data_info_of_such_a_data_set(tmp_path: Path) -> None:
    release(tmp_path, record("[bold]x[/bold].png"), record("b.png", id="ok"))
    noise().save(tmp_path / "images" / "b.png")
    done = CliRunner().invoke(app, ["data", "info", str(tmp_path)])
    assert done.exit_code == 0 and "layout release: data.json is here" in done.output


ODD = (
    "a 🐕 on the 🏖️",
    "一只狗",
    "a \"dog\" called 'Rex', <b>bold</b> & 50 %",
    "a very long dog " * 40,
    "con",
    "../../dog",
)


def test_prompts_of_all_kinds_name_samples_and_files(tmp_path: Path) -> None:
    release(tmp_path / "set", *(record("dog.png", prompt) for prompt in ODD))
    data = load(tmp_path / "set")
    assert [sample.target_prompt for sample in data.samples] == list(ODD)
    assert len({sample.id.casefold() for sample in data.samples}) == len(ODD)
    for sample in data.samples:
        path = tmp_path / "edits" / f"{sample.id}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert path.resolve().parent == (tmp_path / "edits").resolve()
    assert len(list((tmp_path / "edits").iterdir())) == len(ODD)
