"""Backbones that are not whole, or are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from paths import TINY

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.imba.errors import UserError


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer"))
    with pytest.raises(UserError, match=r"model.* has no tokenizer; its folder is not whole"):
        Backbone.load(str(tmp_path / "model"))


@pytest.mark.parametrize("channels", [8, 9])
def test_a_denoiser_of_more_channels_is_refused(channels: int) -> None:
    pipeline = Backbone.load(str(TINY)).pipeline
    pipeline.unet.register_to_config(in_channels=channels)
    with pytest.raises(UserError, match=f"takes {channels} channels and not 4"):
        Backbone.from_pipeline(pipeline, "model")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"_class_name": 3}', '{"_class_name": "AudioPipeline"}'])
def test_an_index_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(text)
    with pytest.raises(UserError, match="model"):
        Backbone.load(str(tmp_path / "model"))


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "no/such", "/nowhere", " ", "a\x1b[2J", "a\0b"])
def test_a_name_that_is_none_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match="Give one of") as told:
        Backbone.load(name)
    assert len(str(told.value)) < 700 and "\x1b" not in str(told.value)
