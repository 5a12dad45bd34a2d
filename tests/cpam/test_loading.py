"""Backbones in every form that they are published in, saved small; and those that cannot be used, with the reason."""

from __future__ import annotations

import fnmatch
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from editor_helpers import small_backbone, tiny_pipeline
from paths import TINY
from single_file import write_single_file

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.imba.common import hub
from cpam_bench.imba.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny Stable Diffusion, to be changed."""
    return shutil.copytree(TINY, tmp_path / "model")


@pytest.fixture(scope="module")
def fingerprint() -> dict[str, str]:
    return Backbone.load(str(TINY)).fingerprint


def configure(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename_weights(folder: Path, ending: str) -> None:
    for path in [*folder.rglob("*.safetensors")]:
        path.rename(path.with_name(path.name.replace(".safetensors", ending)))


def test_a_folder_with_fp16_files_alone(folder: Path, fingerprint: dict[str, str]) -> None:
    rename_weights(folder, ".fp16.safetensors")
    loaded = Backbone.load(str(folder))
    assert loaded.fingerprint == fingerprint and loaded.dtype == torch.float32


def test_a_folder_of_which_only_the_denoiser_is_in_fp16(folder: Path, fingerprint: dict[str, str]) -> None:
    rename_weights(folder / "unet", ".fp16.safetensors")
    assert Backbone.load(str(folder)).fingerprint == fingerprint


def test_safety_checker_and_feature_extractor_change_nothing(folder: Path, fingerprint: dict[str, str]) -> None:
    configure(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    assert Backbone.load(str(folder)).fingerprint == fingerprint  # their files are not there, and are not missed


def test_a_checkpoint_in_one_file(tmp_path: Path, fingerprint: dict[str, str]) -> None:
    file = tmp_path / "model.safetensors"
    write_single_file(tiny_pipeline(), file)
    shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    assert Backbone.load(str(file)).fingerprint == fingerprint


def test_a_checkpoint_whose_configuration_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    write_single_file(tiny_pipeline(), file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "trouble", lambda: "no such host")
    with pytest.raises(UserError, match=r"no such host.*in a folder .*model beside it"):
        Backbone.load(str(file))


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match="no whole file of safetensors"):
        Backbone.load(str(file))


def test_a_pickled_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"PK")
    with pytest.raises(UserError, match="pickled.*convert"):
        Backbone.load(str(file))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "InstructPix2Pix": (lambda f: configure(f / "unet" / "config.json", in_channels=8), "8 channels.*InstructPix2Pix"),
    "inpainting": (lambda f: configure(f / "unet" / "config.json", in_channels=9), "9 channels.*inpainting"),
    "predicts the sample": (
        lambda f: configure(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "predicts 'sample'; epsilon and v_prediction",
    ),
    "another pipeline": (
        lambda f: configure(f / "model_index.json", _class_name="FluxPipeline"),
        "FluxPipeline",
    ),
    "an empty index": (lambda f: (f / "model_index.json").write_text(""), "model_index.json is empty or damaged"),
    "half an index": (
        lambda f: (f / "model_index.json").write_text('{"_class'),
        "model_index.json is empty or damaged",
    ),
    "an index that is a list": (lambda f: (f / "model_index.json").write_text("[]"), "model_index.json is damaged"),
    "an index without a class": (lambda f: (f / "model_index.json").write_text("{}"), "names no pipeline"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "has no tokenizer; .*not whole"),
    "no denoiser": (lambda f: shutil.rmtree(f / "unet"), "has no unet/config.json"),
    "no weights": (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "no weights of its vae"),
    "pickled weights": (lambda f: rename_weights(f, ".bin"), "pickled weights alone .*convert"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_at_load_with_the_reason(case: str, folder: Path) -> None:
    change, words = REFUSED[case]
    change(folder)
    with pytest.raises(UserError, match=words) as refused:
        Backbone.load(str(folder))
    assert str(folder) in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_a_name_of_300_characters() -> None:
    with pytest.raises(UserError, match=r"300 characters.*cannot be the name of a repository"):
        Backbone.load("x" * 300)


def test_without_a_network_one_line_and_no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "trouble", lambda: "no such host")
    started = time.monotonic()
    with pytest.raises(UserError) as refused:
        Backbone.load("somebody/some-model")
    text = str(refused.value)
    assert "somebody/some-model is not on this machine" in text and "no such host" in text
    assert len(text.splitlines()) == 1 and time.monotonic() - started < 5


def served(monkeypatch: pytest.MonkeyPatch, repository: Path, cache: Path) -> list[str]:
    """A hub that has one repository; returns the names of the files that were fetched from it."""
    fetched: list[str] = []

    def names() -> list[str]:
        return [path.relative_to(repository).as_posix() for path in sorted(repository.rglob("*")) if path.is_file()]

    def snapshot(repo_id: str, allow_patterns: list[str], local_files_only: bool) -> str:
        if not local_files_only:
            for name in names():
                if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns) and not (cache / name).exists():
                    (cache / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(repository / name, cache / name)
                    fetched.append(name)
        elif not cache.exists():
            raise FileNotFoundError(repo_id)
        return str(cache)

    api = SimpleNamespace(list_repo_files=lambda repo_id: names())
    monkeypatch.setattr("cpam_bench.cpam.repository.snapshot_download", snapshot)
    monkeypatch.setattr("cpam_bench.cpam.repository.HfApi", lambda: api)
    monkeypatch.setattr(hub, "trouble", lambda: None)
    return fetched


def test_of_a_repository_only_what_is_needed_is_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: dict[str, str]
) -> None:
    for path in [*folder.rglob("*.safetensors")]:
        shutil.copy(path, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
        path.with_suffix(".bin").touch()
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").touch()
    fetched = served(monkeypatch, folder, tmp_path / "cache")
    assert Backbone.load("somebody/model").fingerprint == fingerprint
    assert [name for name in fetched if not name.endswith(".json")] == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    fetched.clear()
    monkeypatch.setattr(hub, "trouble", lambda: "no such host")  # what is here needs no network
    assert Backbone.load("somebody/model").fingerprint == fingerprint and fetched == []


def test_a_repository_that_cannot_be_used_costs_no_download_of_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(folder / "unet" / "config.json", in_channels=9)
    fetched = served(monkeypatch, folder, tmp_path / "cache")
    with pytest.raises(UserError, match="inpainting"):
        Backbone.load("somebody/model")
    assert fetched and not [name for name in fetched if name.endswith(".safetensors")]


def test_velocity_is_turned_into_noise_as_its_definition_has_it() -> None:
    """v = sqrt(alpha) eps - sqrt(1 - alpha) z_0 and z = sqrt(alpha) z_0 + sqrt(1 - alpha) eps, solved for eps."""
    backbone = small_backbone("v_prediction")
    torch.manual_seed(1)
    latents = torch.randn(2, 4, 8, 8)
    text = backbone.embed("a dog").expand(2, -1, -1)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    for timestep in (1, 500, 981):
        with torch.no_grad():
            velocity = backbone.unet(latents, timestep, encoder_hidden_states=text).sample.double()
        rotation = torch.tensor(
            [
                [alphas[timestep].sqrt(), -(1 - alphas[timestep]).sqrt()],
                [(1 - alphas[timestep]).sqrt(), alphas[timestep].sqrt()],
            ]
        )
        both = torch.stack([velocity.flatten(), latents.double().flatten()])
        noise = torch.linalg.solve(rotation, both)[0].reshape(latents.shape)
        found = backbone.predict(latents, timestep, text).double()
        assert ((found - noise).norm() / noise.norm()).item() < 1e-4
