"""How fast scoring is against the authors' way, a picture at a time and metric by metric: the ratio, and the agreement.

``python tests/benchmarks/scoring.py --count 200 --edge 512`` scores made pictures by PIE-Bench's seven metrics in both
ways in one run, on the same device and with the same networks.  Their weights are random ones of the right size: they
take the same time.  ``--small`` takes tiny networks, so that what is left is the handling of the pictures.  The
authors' way is that of ``tests/helpers/straight_metrics.py``, with SSIM by torchmetrics in single precision.  Time is
that of the processor, so that other work on the machine does not count.  ``--methods`` edits each source so many times,
as a run of several methods does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from straight_metrics import Straight
from tiny_networks import write_tokenizer

from cpam_bench.eval.metrics.metric import PROTOCOLS, Batch, choose, measure
from cpam_bench.eval.metrics.networks import Networks

BATCH = 16
DEVICE = "cpu"
"""Of both ways; the straight computations are of the CPU."""


def write_networks(folder: Path, small: bool) -> dict[str, str]:
    """ViT-B/8 and ViT-L/14 with random weights, or tiny ones, saved to a folder: role -> folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTModel

    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vit = ViTConfig(**(tiny if small else base), image_size=224, patch_size=8)
    ViTModel(vit, add_pooling_layer=False).save_pretrained(folder / "dino")
    text = {**(tiny if small else base), "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**(tiny if small else large), "image_size": 224, "patch_size": 14}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).save_pretrained(folder / "clip")
    write_tokenizer(folder / "clip")
    CLIPImageProcessor().save_pretrained(folder / "clip")
    return {"transformers-clip": str(folder / "clip"), "dino": str(folder / "dino")}


def pictures(count: int, edge: int, methods: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        source, *edits = (
            np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((edge, edge)))
            for _ in range(1 + methods)
        )
        mask = np.zeros((edge, edge), bool)
        top, left = rng.integers(0, edge // 2, 2)
        mask[top : top + edge // 3, left : left + edge // 3] = True
        found += [(source, edit, mask) for edit in edits]
    return found


def batch(chosen: list[tuple[np.ndarray, np.ndarray, np.ndarray]], device: str) -> Batch:
    source, edit, mask = (np.stack(parts) for parts in zip(*chosen, strict=True))
    count = len(chosen)
    known = np.zeros(count, bool)
    return Batch(
        source, edit, mask, ~known, ["a thing"] * count, source, known, [""] * count, np.zeros_like(mask), device
    )


def timed(work: Callable[[], dict[str, list[float]]]) -> tuple[float, dict[str, list[float]]]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--methods", type=int, default=1, help="edits of each source")
    parser.add_argument("--small", action="store_true", help="tiny networks, so that only the handling is timed")
    options = parser.parse_args()
    labels = [label.replace("squeeze", "alex") for label in PROTOCOLS["pie-bench"]]
    metrics = choose(labels)
    made = pictures(options.count, options.edge, options.methods)
    with tempfile.TemporaryDirectory() as folder:
        places = write_networks(Path(folder), options.small)
        used, straight = Networks(device=DEVICE, places=places), Straight(places, "alex")

        def one_by_one() -> dict[str, list[float]]:
            each = [
                straight.seven(Image.fromarray(source), Image.fromarray(edit), mask, "a thing")
                for source, edit, mask in made
            ]
            return {label: [seven[name] for seven in each] for label, name in zip(metrics, each[0], strict=True)}

        def together() -> dict[str, list[float]]:
            found: dict[str, list[float]] = {label: [] for label in metrics}
            for start in range(0, len(made), BATCH):
                for label, values in measure(batch(made[start : start + BATCH], DEVICE), metrics, used).items():
                    found[label] += values
            return found

        measure(batch(made[:1], DEVICE), metrics, used)  # loads and warms up
        straight.seven(*(Image.fromarray(one) for one in made[0][:2]), made[0][2], "a thing")
        alone, expected = timed(one_by_one)
        joined, found = timed(together)
    worst = max(np.nanmax(np.abs(np.subtract(found[label], expected[label]))) for label in metrics)
    facts = {"count": options.count, "methods": options.methods, "edge": options.edge, "device": DEVICE}
    facts["small"] = options.small
    print(json.dumps({**facts, "one_by_one_s": alone, "together_s": joined, "ratio": alone / joined, "worst": worst}))


if __name__ == "__main__":
    main()
