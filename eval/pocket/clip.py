"""Train the pocket CLIP: a small open_clip model on the scenes, so that CLIPScore runs through open_clip itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import CLIPTokenizer

from cpam_bench.eval.pocket.tokenizer import CONTEXT
from cpam_bench.eval.pocket.training import Run, cosine, example, half, pixels, world_digest
from cpam_bench.imba.common.files import making
from cpam_bench.imba.pocket.world import caption, sample_caption

EDGE = 64
"""Edge of the images that the model sees; the scenes' 128 px reduced by open_clip's own preprocessing."""


def configuration(vocabulary: int) -> dict[str, Any]:
    """open_clip_config.json: a ResNet-10-T of timm beside a narrow text transformer."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "timm_model_name": "resnet10t",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": EDGE,
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary,
                "hf_tokenizer_name": "pocket",  # open_clip takes the folder's own tokenizer for a local-dir: model
                "width": 128,
                "heads": 4,
                "layers": 3,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def small(count: int, cache: Path) -> np.ndarray:
    """Training images reduced to the model's size, uint8 (count, 64, 64, 3), made once."""
    path = cache / f"examples-{count}-{world_digest()}-{EDGE}.npy"
    if not path.exists():
        images = pixels(count, cache)
        reduced = np.empty((count, EDGE, EDGE, 3), np.uint8)
        for i in tqdm(range(count), desc="reducing", mininterval=5):
            reduced[i] = np.asarray(Image.fromarray(images[i]).resize((EDGE, EDGE), Image.Resampling.BICUBIC))
        with making(path) as part, part.open("wb") as file:
            np.save(file, reduced)
    reduced_images: np.ndarray = np.load(path)
    return reduced_images


def train(
    folder: Path,
    target: Path,
    tokenizer: CLIPTokenizer,
    steps: int = 1500,
    batch: int = 64,
    scenes: int = 12_000,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Contrastive training (Radford et al. 2021); writes a folder that open_clip loads as ``local-dir:``."""
    torch.manual_seed(seed)
    config = configuration(len(tokenizer))
    model = open_clip.CLIP(**config["model_cfg"]).to(device)
    images = small(scenes, folder.parent)
    specifications = [example(i) for i in tqdm(range(scenes), desc="captions", mininterval=5)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    criterion = ClipLoss()
    run = Run(folder, steps, seed, {"model": model, "optimiser": optimiser})
    right: list[float] = []
    model.train()
    for step, rng in run:
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine(step, steps)
        words = random.Random(int(rng.integers(2**31)))
        chosen: list[int] = []
        captions: list[str] = []
        while len(chosen) < batch:  # equal captions in one batch would be each other's negatives
            i = int(rng.integers(scenes))
            plain = not specifications[i].flaws and words.random() < 0.5
            text = caption(specifications[i].scene) if plain else sample_caption(specifications[i], words)
            if text not in captions:
                chosen.append(i)
                captions.append(text)
        x = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        # Edits come back through an autoencoder: the score must not hang on fine texture or exact colour.
        x = (x + 0.03 * torch.randn_like(x)) * (1 + 0.1 * torch.randn(len(x), 1, 1, 1, device=device))
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        with half(device):
            image_features, text_features, scale = model(x, ids)
        loss = criterion(image_features.float(), text_features.float(), scale.float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))
            similarity = image_features @ text_features.T
            right.append((similarity.argmax(1).cpu() == torch.arange(batch)).float().mean().item())
        if step % 100 == 99:
            run.log(loss=loss.item(), right=float(np.mean(right[-100:])), lr=group["lr"])
    target.mkdir(parents=True, exist_ok=True)
    state = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target / "open_clip_model.safetensors")
    (target / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(target)
