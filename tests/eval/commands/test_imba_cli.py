"""The data commands as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpam_bench.eval.commands.data import app
from cpam_bench.imba.dataset import POCKET
from cpam_bench.imba.errors import UserError


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.fixture
def like_imba(tmp_path: Path) -> Path:
    """The shape of the published annotations: 104 records, 42 retained, 97 + 1 + 6, and no file at all."""
    altered = ["foreground"] * 97 + ["object"] + ["background"] * 6
    records = [
        {
            "img_name": f"picture{i % 41}.jpeg",
            "target_text": f"Prompt {i}.",
            "object": what,
            "alter_mask": None,
            "retain_object": i < 42,
            "object_prompt": "a thing",
        }
        for i, what in enumerate(altered)
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    return tmp_path


def cells(output: str) -> dict[str, list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in rows}


def test_info_sets_the_counts_beside_the_papers(like_imba: Path) -> None:
    code, output = run("info", like_imba)
    assert code == 0
    table = cells(output)
    assert table["samples"] == ["104", "104"]
    assert table["object retained"] == ["42", "43"]
    assert table['altered: "foreground"'] == ["97", "97"]
    assert table['altered: "object"'] == ["1", "-"]
    assert table['altered: "background"'] == ["6", "7"]
    assert "the mask is missing (every sample): masks/picture0.png" in output and "and 37 more" in output
    assert len(output.splitlines()) < 25


def test_info_on_the_pocket_benchmark_has_no_column_of_the_paper() -> None:
    code, output = run("info", "pocket")
    assert code == 0 and "paper" not in output and "Every file is there." in output
    assert cells(output)["samples"] == ["24"]


def test_validate_lists_each_problem_on_a_line_and_fails(like_imba: Path) -> None:
    code, output = run("validate", like_imba)
    lines = output.splitlines()
    assert code == 1 and sum(line.startswith("error: data.json[") for line in lines) == 208
    assert "104 samples, 0 of them ready" in lines[-1]
    assert run("validate", "pocket")[0] == 0


def test_validate_does_not_call_a_data_set_of_broken_records_ready(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[{"img_name": "[red]a.png"}]')
    code, output = run("validate", tmp_path)
    assert code == 1 and "1 records unusable" in output and "[red]a.png" in output
    code, output = run("info", tmp_path)
    assert code == 0 and "data.json[0] ([red]a.png)" in output


def test_pocket_and_build(tmp_path: Path) -> None:
    assert run("pocket", "--out", tmp_path / "pocket")[0] == 0
    assert (tmp_path / "pocket" / "data.json").read_bytes() == (POCKET / "data.json").read_bytes()
    # The benchmark can stand in for a download of its own pictures.
    download = tmp_path / "tedbench"
    download.mkdir()
    (tmp_path / "pocket" / "images").rename(download / "originals")
    (download / "input_list.json").write_bytes((POCKET / "data.json").read_bytes())
    arguments = ["build", "--tedbench", download, "--annotations", POCKET / "data.json", "--out", tmp_path / "imba"]
    code, output = run(*arguments)
    assert code == 1 and "24 images, 0 masks" in output and "masks not found (24)" in output
    code, output = run(*arguments, "--masks", POCKET / "masks")
    assert code == 0 and output.splitlines()[-1].endswith("24 images, 24 masks")


def test_misuse_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data set nowhere"):
        run("info", "nowhere")
    assert run("build")[0] == 2
