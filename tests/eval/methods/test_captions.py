"""Captions that a method needs and the data set lacks, from a small BLIP with random weights on disk."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from run_helpers import FakeBackbone, described, samples, write_clip, write_dataset

import cpam_bench.eval.commands.main
from cpam_bench.eval.methods import captions, registry
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import DiskFull, UserError

WORDS = ["a", "photo", "of", "red", "blue", "thing", "dog", "cat", "on", "in"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner that loads as the published one does."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": len(words),
        "encoder_hidden_size": 16,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
    }
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config={**small, **text, "pad_token_id": 0, "max_position_embeddings": 64},
            vision_config={**small, "image_size": 32, "patch_size": 16},
            projection_dim=16,
        )
    )
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessor(size=size), BertTokenizerFast(tokenizer_object=tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def needy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test editor needs a caption and writes it down."""
    from run_helpers import Brighten

    def edit(self: Brighten, sample: object, source: object, seed: int) -> Image.Image:
        assert sample.source_prompt, "no caption"  # type: ignore[attr-defined]
        return source.image  # type: ignore[attr-defined]

    monkeypatch.setattr(Brighten, "needs_caption", True, raising=False)
    monkeypatch.setattr(Brighten, "edit", edit)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """The command over two samples, of which the second has a caption: exit code and stderr."""
    import importlib.metadata

    from cpam_bench.cpam.backbone import Backbone

    names = {"brighten": "Brighten", "noise": "Noise"}
    group, installed = registry.EDITORS.name, importlib.metadata.entry_points
    points = [importlib.metadata.EntryPoint(n, f"run_helpers:{kind}", group) for n, kind in names.items()]

    def entry_points(**chosen: str):  # type: ignore[no-untyped-def]
        return points if chosen.get("group") == group else installed(**chosen)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(Backbone, "load", lambda name, **_: FakeBackbone())
    data = write_dataset(tmp_path / "data")
    records = json.loads((data / "data.json").read_text())
    records[1]["source_prompt"] = "a blue thing"
    (data / "data.json").write_text(json.dumps(records))
    clip = write_clip(tmp_path / "clip")

    def call(methods: str, *more: object) -> tuple[int, str]:
        arguments = ["run", "--methods", methods, "--dataset", data, "--out", tmp_path / "run", "--no-references"]
        arguments += ["--clip", f"local-dir:{clip}", "--device", "cpu", "--workers", 1, *more]
        monkeypatch.setattr(sys, "argv", ["cpam-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cpam_bench.eval.commands.main.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def test_captions_are_the_same_each_time(blip: Path) -> None:
    captioner = captions.load(str(blip))
    first, second = (sample.read_image() for sample in samples(2))
    assert captioner(first) and captioner(first) == captioner(first)
    assert set(captioner(second).split()) <= {*WORDS, "[DEC]"}  # which a published tokenizer hides as special


def test_what_the_data_set_lacks_is_written_and_kept(
    run,
    blip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    assert run("noise")[0] == 0  # needs none: its tasks are stored without
    store = Store.open(tmp_path / "run")
    first, second = store.run.samples
    assert store.read_task(first).source_prompt is None  # type: ignore[union-attr]
    code, err = run("noise,brighten", "--captioner", blip)
    assert code == 0, err
    task, other = store.read_task(first), store.read_task(second)
    assert task and task.source_prompt and task.caption_by == str(blip)
    assert other and other.source_prompt == "a blue thing" and other.caption_by is None
    assert store.is_done("brighten", first) and store.is_done("brighten", second)

    def refuse(name: str, device: str) -> None:
        raise AssertionError("the captions are there")

    monkeypatch.setattr(captions, "load", refuse)
    store.edit_path("brighten", first).unlink()
    code, err = run("noise,brighten", "--captioner", blip)
    assert code == 0, err
    assert store.is_done("brighten", first) and store.read_task(first) == task


@pytest.mark.parametrize(
    ("captioner", "reason"),
    [("none", "no captioner is wanted"), ("/no/such", "the captioner /no/such cannot be loaded")],
)
def test_without_a_captioner_the_method_is_left_out(
    run,
    tmp_path: Path,
    captioner: str,
    reason: str,  # type: ignore[no-untyped-def]
) -> None:
    code, err = run("brighten,noise", "--captioner", captioner)
    assert code == 0
    assert "left out: brighten needs a caption of the source, and 1 of 2 samples lack one, p0-a-red-thing first" in err
    assert reason in err
    assert set(Store.open(tmp_path / "run").run.methods) == {"noise"}


def test_nothing_left_is_misuse(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, err = run("brighten", "--captioner", "none")
    assert code == 2 and "no method is left; give samples a source_prompt" in err
    assert not (tmp_path / "run").exists()


def test_an_empty_caption_fails_that_sample_alone(run, blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(captions.Captioner, "__call__", lambda self, image: "")
    code, err = run("brighten", "--captioner", blip)
    assert code == 1 and "1 edits failed" in err and "brighten on p0-a-red-thing: AssertionError: no caption" in err
    assert f"no caption of sample p0-a-red-thing: the captioner {blip} finds no words for its picture" in err


def test_a_sample_that_gets_no_caption_is_said_and_costs_no_other(tmp_path: Path) -> None:
    good, other = samples(2)
    gone = replace(other, image=tmp_path / "gone.png")
    lines: list[str] = []

    def captioner(image: Image.Image) -> str:
        return "a thing"

    captioner.name = "made up"  # type: ignore[attr-defined]
    with locked(tmp_path / "run"):
        store = Store.create_or_resume(tmp_path / "run", described({}, [gone, good]))
        found = captions.fill(store, [gone, good], captioner, FakeBackbone(), lines.append)  # type: ignore[arg-type]
        assert [one.source_prompt for one in found] == [None, "a thing"] and store.has_task(good.id)
        assert len(lines) == 1 and "no caption of sample s1" in lines[0] and "gone.png" in lines[0]
        # What cannot be written is not passed over.
        with patch.object(captions, "write_task", side_effect=DiskFull("full")), pytest.raises(DiskFull):
            captions.fill(store, [good], captioner, FakeBackbone(), lines.append)  # type: ignore[arg-type]


def test_a_captioner_that_is_no_captioner(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        captions.load(str(tmp_path))
