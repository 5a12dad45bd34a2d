"""Whether an editor has left the backbone, and this process, as it found them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cpam_bench.imba.common.hashes import weights_hash


class Guard:
    """Notes the state of a backbone, and tells later what is not as it was.

    Looking costs a walk over the modules: weights are told by their identity and version counters, which every
    change in place raises, and hashed only where those have moved.

    Args:
        backbone: its ``pipeline`` holds the networks; without one only the process is looked after.
        weights: component -> SHA-256, as the backbone's fingerprint.
    """

    def __init__(self, backbone: Any, weights: Mapping[str, str]):
        pipeline = getattr(backbone, "pipeline", None)
        components = {} if pipeline is None else pipeline.components
        self._parts = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
        self._weights = weights
        self._process = _process()
        self._note()

    def _note(self) -> None:
        self._tensors = {name: _tensors(part) for name, part in self._parts.items()}
        self._forms = {name: _forms(part) for name, part in self._parts.items()}

    def begin(self) -> None:
        """Take the process as it is now for how it has to be left; the backbone stays as it was noted."""
        self._process = _process()

    def changed(self) -> list[str]:
        """What is not as it was, in words; the process's own state is put back at once."""
        found = []
        for name, part in self._parts.items():
            if not _same(_tensors(part), self._tensors[name]):
                if name in self._weights and weights_hash(part) == self._weights[name]:
                    self._tensors[name] = _tensors(part)  # changed and put back, to the bit
                else:
                    found.append(f"the weights of its {name}")
            if not _same(_forms(part), self._forms[name]):
                found.append(f"hooks, attention processors or modes of its {name}")
        now = _process()
        found += [name for name, value in self._process.items() if now[name] != value]
        torch.set_default_dtype(self._process["torch's default dtype"])
        torch.set_grad_enabled(self._process["torch's grad mode"])
        if now["torch's threads"] != self._process["torch's threads"]:
            torch.set_num_threads(self._process["torch's threads"])
        return found


def _process() -> dict[str, Any]:
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's threads": torch.get_num_threads(),
    }


def _tensors(part: nn.Module) -> list[Any]:
    found: list[Any] = []
    for tensor in chain(part.parameters(), part.buffers()):
        found += [tensor, _version(tensor)]
    return found


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)


def _forms(part: nn.Module) -> list[Any]:
    found: list[Any] = []
    for module in part.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found += [module, module.training, vars(module).get("forward"), vars(module).get("processor")]
        found += [tuple(hook) for hook in hooks]
        found.append(tuple(weight.requires_grad for weight in module.parameters(recurse=False)))
    return found


def _same(now: list[Any], before: list[Any]) -> bool:
    # Tensors and modules are themselves or others; they are not to be compared element by element.
    return len(now) == len(before) and all(
        a is b or (isinstance(a, bool | int | tuple) and a == b) for a, b in zip(now, before, strict=True)
    )
