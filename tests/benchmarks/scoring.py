"""How fast scoring is against a picture at a time, metric by metric: the ratio, and the agreement, in one run.

``python tests/benchmarks/scoring.py --count 200 --edge 512`` scores made pictures by PIE-Bench's seven metrics in both
ways, on the same device and with the same networks.  Weights that cannot be had are random ones of the right size: they
take the same time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cpam_bench.eval.metrics.metric import PROTOCOLS, Batch, choose, measure
from cpam_bench.eval.metrics.networks import Networks

BATCH = 16


def networks(folder: Path, small: bool, device: str) -> Networks:
    """ViT-B/8 and ViT-L/14 with random weights, or tiny ones; LPIPS has AlexNet, whose weights are here."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast, ViTConfig, ViTModel

    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vit = ViTConfig(**(tiny if small else base), image_size=224, patch_size=8)
    ViTModel(vit, add_pooling_layer=False).save_pretrained(folder / "dino")
    text = {**(tiny if small else base), "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**(tiny if small else large), "image_size": 224, "patch_size": 14}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).save_pretrained(folder / "clip")
    words = {word: i for i, word in enumerate(["<s>", "</s>", "[UNK]", "a", "thing"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 0), ("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="</s>")
    fast.save_pretrained(folder / "clip")
    CLIPImageProcessor().save_pretrained(folder / "clip")
    places = {"transformers-clip": str(folder / "clip"), "dino": str(folder / "dino")}
    return Networks(device=device, places=places)


def pictures(count: int, edge: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        source, edit = (
            np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((edge, edge)))
            for _ in range(2)
        )
        mask = np.zeros((edge, edge), bool)
        top, left = rng.integers(0, edge // 2, 2)
        mask[top : top + edge // 3, left : left + edge // 3] = True
        found.append((source, edit, mask))
    return found


def batch(chosen: list[tuple[np.ndarray, np.ndarray, np.ndarray]], device: str) -> Batch:
    source, edit, mask = (np.stack(parts) for parts in zip(*chosen, strict=True))
    count = len(chosen)
    known = np.zeros(count, bool)
    return Batch(
        source, edit, mask, ~known, ["a thing"] * count, source, known, [""] * count, np.zeros_like(mask), device
    )


def timed(work: Callable[[], dict[str, list[float]]]) -> tuple[float, dict[str, list[float]]]:
    started = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny networks, so that only the handling is timed")
    options = parser.parse_args()
    labels = [label.replace("squeeze", "alex") for label in PROTOCOLS["pie-bench"]]
    metrics = choose(labels)
    made = pictures(options.count, options.edge)
    with tempfile.TemporaryDirectory() as folder:
        used = networks(Path(folder), options.small, options.device)

        def one_by_one() -> dict[str, list[float]]:
            found: dict[str, list[float]] = {label: [] for label in metrics}
            for one in made:
                for label, metric in metrics.items():
                    found[label] += measure(batch([one], options.device), {label: metric}, used)[label]
            return found

        def together() -> dict[str, list[float]]:
            found: dict[str, list[float]] = {label: [] for label in metrics}
            for start in range(0, len(made), BATCH):
                for label, values in measure(batch(made[start : start + BATCH], options.device), metrics, used).items():
                    found[label] += values
            return found

        measure(batch(made[:1], options.device), metrics, used)  # loads and warms up
        alone, expected = timed(one_by_one)
        joined, found = timed(together)
    worst = max(np.nanmax(np.abs(np.subtract(found[label], expected[label]))) for label in metrics)
    facts = {"count": options.count, "edge": options.edge, "device": options.device, "small": options.small}
    print(json.dumps({**facts, "one_by_one_s": alone, "together_s": joined, "ratio": alone / joined, "worst": worst}))


if __name__ == "__main__":
    main()
