"""Whether torch.compile pays: what compiling the denoiser costs, and what a step gains by it.

    python tests/benchmarks/compiled.py [--backbone pocket] [--lanes 3]

Prints one line of JSON.  Seconds are the processor's, of the compiler's own processes too: of compiling and the first
call, and the least of some rounds of a call with and without, in turns.  After so many calls it has paid for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import torch

from cpam_bench.cpam.backbone import Backbone


def spent() -> float:
    """Seconds of the processor, of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbone", default="pocket")
    parser.add_argument("--lanes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    backbone = Backbone.load(options.backbone)
    plain = backbone.unet
    latents = torch.randn(options.lanes, 4, *backbone.grid, generator=torch.Generator().manual_seed(0))
    text = backbone.text("a photo of a dog").expand(options.lanes)
    expected = backbone.predict(latents, 500, text)
    began, clock = spent(), time.monotonic()
    faster = torch.compile(plain)
    backbone.pipeline.unet = faster
    found = backbone.predict(latents, 500, text)
    compiling, waited = spent() - began, time.monotonic() - clock
    least = {"eager": float("inf"), "compiled": float("inf")}
    for _ in range(options.rounds):
        for name, network in (("eager", plain), ("compiled", faster)):
            backbone.pipeline.unet = network
            started = time.process_time()
            backbone.predict(latents, 500, text)
            least[name] = min(least[name], time.process_time() - started)
    gain = least["eager"] - least["compiled"]
    print(
        json.dumps(
            {
                "backbone": options.backbone,
                "lanes": options.lanes,
                "processor_seconds_to_compile": round(compiling, 1),
                "seconds_to_compile": round(waited, 1),
                "milliseconds": {name: round(1000 * seconds, 2) for name, seconds in least.items()},
                "ratio": round(least["compiled"] / least["eager"], 3),
                "calls_until_it_pays": round(compiling / gain) if gain > 0 else None,
                "largest_difference": float((found - expected).abs().max()),
            }
        )
    )


if __name__ == "__main__":
    main()
