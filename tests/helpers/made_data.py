"""Made data sets in the layouts that are read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(size: tuple[int, int] = (20, 16), seed: int = 0) -> Image.Image:
    """A picture of random colours."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def box(size: tuple[int, int] = (20, 16)) -> np.ndarray:
    """An object in the middle: uint8 (H, W), 255 inside."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] // 2] = 255
    return mask


def record(img_name: str = "dog.png", target_text: str = "A photo of a cat.", **fields: Any) -> dict[str, Any]:
    """A record of ``data.json``."""
    return {
        "img_name": img_name,
        "target_text": target_text,
        "object": "foreground",
        "alter_mask": None,
        "retain_object": False,
        "object_prompt": "",
    } | fields


def release(root: Path, *records: Any, size: tuple[int, int] = (20, 16), mask: np.ndarray | None = None) -> Path:
    """A data set in the authors' layout with a picture and a mask for each record."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    written = list(records) or [record()]
    (root / "data.json").write_text(json.dumps(written))
    for item in written:
        name = item["img_name"]
        try:
            noise(size).save(root / "images" / name)
            Image.fromarray(box(size) if mask is None else mask).save(root / "masks" / f"{Path(name).stem}.png")
        except (OSError, ValueError):  # the name is the fault that is tried
            continue
    return root


PIE_TYPES = ("random", "change object", "add object", "delete object", "change content", "change pose", "change color")
PIE_TYPES += ("change material", "change background", "change style")


def pie_entry(type: int, image: str, mask: Any, **fields: Any) -> dict[str, Any]:
    """An entry of ``mapping_file.json``."""
    return {
        "image_path": image,
        "original_prompt": "a [cat] sitting on a chair",
        "editing_prompt": "a [dog] sitting on a chair",
        "editing_instruction": "change the cat to a dog",
        "editing_type_id": str(type),
        "blended_word": "cat dog",
        "mask": mask,
    } | fields


def pie_bench(root: Path, per_type: int = 2, size: int = 512) -> Path:
    """PIE-Bench of all ten types, ``per_type`` samples each; the mask of each sample is a band of its own."""
    entries = {}
    small = np.random.default_rng(0).integers(40, 200, (5, 5, 3), np.uint8)
    for type, name in enumerate(PIE_TYPES):
        for number in range(per_type):
            folder = f"{type}_{name.replace(' ', '_')}_{per_type}/{number % 2 + 1}_natural/1_animal"
            key = f"{type}{number:011d}"
            (root / "annotation_images" / folder).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.roll(small, type, 0)).resize((size, size), Image.Resampling.BICUBIC)
            picture.save(root / "annotation_images" / folder / f"{key}.jpg")
            rows = [value for row in range(100 + 10 * type, 300) for value in (row * 512 + 100, 150)]
            entries[key] = pie_entry(type, f"{folder}/{key}.jpg", rows)
    (root / "mapping_file.json").write_text(json.dumps(entries))
    return root


def pie_bench_plus(root: Path) -> Path:
    """PIE-Bench++ of two samples, as it is on the hub."""
    import pyarrow
    import pyarrow.parquet

    for folder, key in (("0_random_140", "000000000000"), ("8_change_background_80", "821000000000")):
        buffer = io.BytesIO()
        noise((512, 512)).save(buffer, "JPEG")
        row = {
            "image": {"bytes": buffer.getvalue(), "path": f"{key}.jpg"},
            "id": key,
            "source_prompt": "a cat sitting on a wooden chair",
            "target_prompt": "a [red] [dog] [standing] on a [metal] chair",
            "edit_action": "{'red': {'position': 1}}",
            "aspect_mapping": "{'dog': ['red', 'standing']}",
            "blended_words": '["cat,dog", "chair,chair"]',
            "mask": "0 1000 2000 262144",
        }
        (root / folder).mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), root / folder / "V1-00000-of-00001.parquet")
    return root


def tedbench(root: Path, *pairs: tuple[str, str]) -> Path:
    """TEdBench as it is published."""
    (root / "originals").mkdir(parents=True)
    for name, _ in pairs:
        noise().save(root / "originals" / name)
    listed = [{"img_name": name, "target_text": text} for name, text in pairs]
    (root / "input_list.json").write_text(json.dumps(listed))
    return root
