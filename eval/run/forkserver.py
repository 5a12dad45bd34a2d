"""The process that workers are forked from; apart from them, because it starts before anything large is imported."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os

_PRELOAD = [
    "cpam_bench.eval.run.processes",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.clip.image_processing_clip",
]
"""What a worker needs and takes long to import; nothing of it starts a thread or a CUDA context."""


def prepare_processes() -> None:
    """Let that process begin to import what workers need.

    It has torch and diffusers by the time that the first worker is wanted, and workers, also those that replace dead
    ones, start in a fraction of a second.
    """
    multiprocessing.set_forkserver_preload(_PRELOAD)
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"  # else Python puts the working directory first on that process's path
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
