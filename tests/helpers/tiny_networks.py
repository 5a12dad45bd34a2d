"""Networks behind the metrics, tiny and with random weights, saved as the real ones are."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def write_transformers(folder: Path) -> dict[str, str]:
    """A DINO for 64 pixels and a CLIP for 32, as transformers saves them: role -> folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTModel

    torch.manual_seed(1)  # whose cosines are above zero, where no score is cut off
    ViTModel(ViTConfig(**TINY, image_size=64, patch_size=16), add_pooling_layer=False).save_pretrained(folder / "vit")
    text = {**TINY, "vocab_size": 16, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**TINY, "image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder / "clip")
    write_tokenizer(folder / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "clip")
    vit = str(folder / "vit")
    return {"transformers-clip": str(folder / "clip"), "dino": vit, "dino-identity": vit}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer that knows six words, and between which tokens a text stands: 0 and 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<s>", "</s>", "[UNK]", *["a", "dog", "on", "grass", "red", "car"]])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="[UNK]", pad_token="</s>"
    )
    fast.save_pretrained(folder)


def write_squeezenet(folder: Path) -> Path:
    """A trunk of LPIPS where torchvision looks for it with ``TORCH_HOME`` set to the folder, which is given back."""
    place = folder / "hub" / "checkpoints"
    place.mkdir(parents=True)
    name = Path(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url).name
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), place / name)
    return folder
