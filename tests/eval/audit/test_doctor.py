"""What a machine is said to be able to do, on machines that are made up."""

from __future__ import annotations

import io
import threading
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpam_bench.eval.audit import doctor
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.run.weights import Weights, of_backbone, of_clip
from cpam_bench.imba.common import hub

SD15 = Weights("backbone", "sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", here=False)
HERE = Weights("CLIP", "ViT-L-14/openai", "timm/vit_large_patch14_clip_224.openai", here=True)


def test_ten_lines_of_a_machine_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "trouble", lambda: "no such host")
    monkeypatch.setattr(hub, "snapshot", lambda repository: None)
    done = CliRunner().invoke(app, ["doctor"])
    lines = done.output.splitlines()
    assert done.exit_code == 0 and len(lines) == 10
    heads = [line.split()[0] for line in lines]
    assert heads == ["versions", "device", "hub", "room", "backbones", "CLIP", "captioner", "masks", "pocket", "IMBA"]
    assert "cannot be reached: no such host" in lines[2]
    sizes = "sd15: not here (4.3 GB); sd14: not here (4.3 GB); sd21: not here (5.2 GB); sdxl: not here (13.9 GB)"
    assert f"pocket: here; {sizes}" in lines[4]
    assert lines[8].endswith("works: cpam-bench run")
    assert "will not work: backbone sd15, CLIP ViT-L-14/openai" in lines[9]


@pytest.mark.parametrize(
    ("wanted", "trouble", "room", "memory", "words"),
    [
        ([SD15, HERE], None, 50, 20, "works (4.3 GB of weights are fetched first): cpam-bench reproduce table2"),
        ([HERE], "no network", 50, 20, "works: cpam-bench reproduce table2"),
        ([SD15, HERE], "no network", 50, 20, "will not work: backbone sd15 cannot be fetched"),
        ([SD15, HERE], None, 3, 20, "will not work: 4.3 GB of weights are to be fetched, and 3.0 GB are free"),
        ([HERE], None, 50, 2, "will not work: Stable Diffusion 1.5 takes some 5 GB of memory, and 2.0 GB are free"),
    ],
)
def test_the_verdict(wanted: list[Weights], trouble: str | None, room: float, memory: float, words: str) -> None:
    assert doctor.verdict(wanted, trouble, room, memory).startswith(words)


def test_weights_are_found_in_a_folder_and_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_backbone("pocket").here and of_clip("pocket").here and of_backbone(str(tmp_path)).here
    cached = tmp_path / "models--some--model"
    snapshot = cached / "snapshots" / "abc"
    for part in ("unet", "vae", "text_encoder"):
        (snapshot / part).mkdir(parents=True)
        (snapshot / part / "model.safetensors").touch()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    (snapshot / "model_index.json").write_text("{}")
    monkeypatch.setattr(hub, "cache", lambda: tmp_path)
    assert of_backbone("some/model").here
    (snapshot / "vae" / "model.safetensors").unlink()  # fetched in part
    assert not of_backbone("some/model").here


def test_a_hub_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    released = threading.Event()
    asked = []

    def silent(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        asked.append(request.full_url)
        released.wait(20)
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", silent)
    hub.trouble.cache_clear()
    try:
        assert hub.trouble() == hub.trouble() == "no answer within 0.2 s"
        assert asked == [hub.endpoint()]  # once, and not again for every file
    finally:
        released.set()
        hub.trouble.cache_clear()
