"""The parts of the pocket world in the order of their training, each in a folder of WORK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from cpam_bench.eval.pocket import classifier, clip, tokenizer, unet, vae
from cpam_bench.eval.pocket.training import team
from cpam_bench.imba.errors import UserError

ORDER = ("vae", "unet", "classifier", "clip", "decoder")
"""The decoder comes last: it changes no latents, so the denoiser need not wait for it."""

_RESULTS = {
    "vae": "vae-trained",
    "unet": "unet-trained",
    "classifier": "pocket-classifier.safetensors",
    "clip": "pocket-clip/open_clip_config.json",
    "decoder": "vae-finished",
}


def is_done(work: Path, part: str) -> bool:
    """Whether the result of a part lies in ``work``."""
    return (work / _RESULTS[part]).exists()


def train(
    work: Path, part: str, settings: dict[str, Any], seed: int = 0, device: str = "cpu", start: str | None = None
) -> None:
    """Train one part, or go on where it was stopped.

    Args:
        work: folder of checkpoints, logs, caches and results.
        part: of :data:`ORDER`.
        settings: keywords for the trainer, ``steps`` and ``scenes`` as a rule.
        seed: of initialisation, batches and noise; the classifier's is the next one, so that it is a judge apart.
        device: cpu or cuda; the classifier is trained on the CPU.
        start: for the autoencoder and the denoiser: the backbone whose weights they begin from.

    Raises:
        UserError: the part needs another that is not trained; several processes for another part than the denoiser.
    """
    rank, processes = team()
    if processes > 1 and part != "unet":
        raise UserError(f"{part} is trained by one process; start cpam-bench pocket train {part} without torchrun")
    begin = None
    if start is not None and part in ("vae", "unet"):
        from cpam_bench.cpam.backbone import Backbone

        begin = Backbone.load(start).pipeline
    if part == "vae":
        own = begin.vae if begin is not None else None
        vae.train(work / "vae", **settings, seed=seed, device=device, start=own).save_pretrained(work / "vae-trained")
    elif part == "unet":
        parts = _autoencoder(work), _tokenizer(work)
        trained = unet.train(work / "unet", *parts, **settings, seed=seed, device=device, start=begin)
        if rank == 0:
            trained.save_pretrained(work / "unet-trained")
            put_together(work)
    elif part == "classifier":
        target = work / _RESULTS["classifier"]
        classifier.train(work / "classifier", target, **settings, seed=seed + 1)
    elif part == "clip":
        clip.train(work / "clip", work / "pocket-clip", _tokenizer(work), **settings, seed=seed, device=device)
    else:
        finished = vae.finish(work / "decoder", _autoencoder(work), **settings, seed=seed, device=device)
        finished.save_pretrained(work / "vae-finished")
        if (work / "unet" / "checkpoint.pt").exists():
            put_together(work)


def put_together(work: Path) -> None:
    """Write WORK/pocket: the denoiser's averaged weights as they are now, with the finished decoder if there is one.

    Raises:
        UserError: no denoiser has been begun.
    """
    if not (work / "unet" / "checkpoint.pt").exists():
        raise UserError(f"{work / 'unet'} has no checkpoint; begin with: cpam-bench pocket train unet --work {work}")
    autoencoder = _autoencoder(work)
    if is_done(work, "decoder"):
        autoencoder = AutoencoderKL.from_pretrained(work / _RESULTS["decoder"]).eval()
    unet.save_half(unet.from_checkpoint(work / "unet", autoencoder, _tokenizer(work)), work / "pocket")


def _autoencoder(work: Path) -> AutoencoderKL:
    if not is_done(work, "vae"):
        raise UserError(
            f"{work / _RESULTS['vae']} is missing; train it with: cpam-bench pocket train vae --work {work}"
        )
    return AutoencoderKL.from_pretrained(work / _RESULTS["vae"]).eval()


def _tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer of ``work``, built once: other captions would make other ids."""
    folder = work / "tokenizer"
    if not folder.exists():
        tokenizer.build().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
