"""Which device the networks run on, where it is not said."""

from __future__ import annotations

import re

import torch

from cpam_bench.imba.errors import UserError


def choose_device(name: str | None) -> str:
    """The device asked for, or the default (None: CUDA where there is some, else the CPU), made sure of.

    Raises:
        UserError: there is no such device here.
    """
    available = torch.cuda.is_available()
    if name is None:
        return "cuda" if available else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}; give cpu, cuda or cuda:N")
    if name.startswith("cuda"):
        if not available:
            raise UserError(f"--device {name}: this machine has no CUDA device that torch can use; give --device cpu")
        index = int(name.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return name
