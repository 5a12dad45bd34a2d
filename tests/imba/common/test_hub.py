"""Weights from the hub: what is here first, and one line with the mend where something cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from cpam_bench.imba.common import hub
from cpam_bench.imba.errors import UserError


class Loader:
    """Finds nothing here; what it fetches, or the error that it meets, is given."""

    def __init__(self, found: str | Exception, here: bool = False):
        self.found, self.here = found, here
        self.asked: list[str] = []

    def __call__(self, local: bool) -> str:
        self.asked.append("here" if local else "hub")
        if local and not self.here:
            raise OSError("not cached")
        if isinstance(self.found, Exception):
            raise OSError("it cannot be loaded") from self.found  # as transformers wraps what the hub says
        return self.found


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "trouble", lambda: None)


def test_what_is_here_is_taken_without_asking() -> None:
    loader = Loader("weights", here=True)
    assert hub.load("some/model", loader) == "weights" and loader.asked == ["here"]


def test_what_is_not_here_is_fetched() -> None:
    loader = Loader("weights")
    assert hub.load("some/model", loader) == "weights" and loader.asked == ["here", "hub"]


def test_without_a_network_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "trouble", lambda: "no such host")
    loader = Loader("weights")
    with pytest.raises(UserError, match="some/model is not on this machine.*cannot be reached: no such host"):
        hub.load("some/model", loader)
    assert loader.asked == ["here"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [(GatedRepoError, "terms accepted.*hf auth login"), (RepositoryNotFoundError, "no repository some/model.*private")],
)
def test_what_the_hub_refuses_has_its_mend(kind: type[RepositoryNotFoundError], words: str) -> None:
    request = httpx.Request("GET", "https://huggingface.co/some/model")
    refused = kind("403", response=httpx.Response(403, request=request))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words):
        hub.load("some/model", Loader(refused))


def test_other_errors_are_the_callers() -> None:
    with pytest.raises(OSError, match="it cannot be loaded"):
        hub.load("some/model", Loader(ValueError("damaged")))


def test_a_folders_own_fault_is_not_looked_for_on_the_hub(tmp_path: object) -> None:
    loader = Loader("weights")
    with pytest.raises(OSError, match="not cached"):
        hub.load(str(tmp_path), loader)
    assert loader.asked == ["here"]


@pytest.mark.parametrize("name", ["x" * 300, "a//b", "", "a/b/c"])
def test_what_cannot_be_a_repository_is_told_at_once(name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a repository") as refused:
        hub.require(name)
    assert len(str(refused.value)) < 300


PARTS: dict[str, Any] = {name: ["library", "Class"] for name in ("unet", "vae", "text_encoder", "tokenizer")}
SECOND = {name: ["library", "Class"] for name in ("text_encoder_2", "tokenizer_2")}


def fetched(cache: Path, index: Any, parts: list[str]) -> Path:
    """The snapshot of a made-up repository ``some/model`` in the hub's cache, with some of its parts."""
    snapshot = cache / "models--some--model" / "snapshots" / "abc"
    refs = cache / "models--some--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc")
    for part in parts:
        (snapshot / part).mkdir(parents=True)
        (snapshot / part / ("vocab.json" if "token" in part else "model.safetensors")).write_text("{}")
    (snapshot / "model_index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return snapshot


@pytest.mark.parametrize(
    ("index", "lacking", "whole"),
    [
        (PARTS, [], True),
        (PARTS, ["tokenizer"], False),
        (PARTS | SECOND, [], True),
        (PARTS | SECOND, ["text_encoder_2"], False),
        (PARTS | SECOND, ["tokenizer_2"], False),
        (PARTS | {"text_encoder_2": [None, None], "tokenizer_2": [None, None]}, [], True),  # it has none
        (PARTS | {"safety_checker": ["library", "Class"]}, [], True),  # nothing is edited with it
        ("[]", [], False),
        ("{", [], False),
    ],
)
def test_a_pipeline_is_here_once_all_that_edits_is(
    index: Any, lacking: list[str], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "cache", lambda: tmp_path)
    named = [name for name, part in index.items() if part != [None, None]] if isinstance(index, dict) else list(PARTS)
    snapshot = fetched(tmp_path, index, [name for name in named if name not in [*lacking, "safety_checker"]])
    assert hub.snapshot("some/model") == (snapshot if whole else None)
