"""What an edit costs: time and memory, and the processor that they are of."""

from __future__ import annotations

import functools
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


@functools.cache
def processor(device: str) -> str:
    """The name of the processor or graphics card that a device is."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _on_cuda(backbone: Any) -> bool:
    return str(backbone.device).startswith("cuda")


def clock(backbone: Any) -> float:
    """Seconds; on CUDA once everything that was started has ended."""
    if _on_cuda(backbone):
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter()


def reset_peak(backbone: Any) -> bool:
    """Start measuring the highest memory anew; False where that cannot be done (not Linux, or not allowed)."""
    if _on_cuda(backbone):
        torch.cuda.reset_peak_memory_stats(backbone.device)
        return True
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def peak(backbone: Any) -> float | None:
    """Highest memory in MiB since :func:`reset_peak`, or None where it cannot be told."""
    if _on_cuda(backbone):
        return float(torch.cuda.max_memory_allocated(backbone.device) / 2**20)
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None
