"""How much faster the compiled descent is than the same moves in operations of torch.

    python -m benchmarks.guards.descent [--widest 2304]

Processor time of one thread, both forms side by side on the same problem, the least of three; the
integers must be the same. Ends with 1 where a ratio is below its limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

from bitwright.numerics.coordinate import Effort, Steps, Successive, descend, descend_at_once
from bitwright.numerics.gram import Gram, Quadratic, centre_gram

# Inputs, outputs, and how many times as fast the descent must be at least.
SIZES = ((144, 16, 20.0), (576, 64, 20.0), (1152, 128, 12.0), (2304, 256, 6.0), (4608, 512, 3.0))


def problem_of(inputs: int, outputs: int) -> tuple[Quadratic, Steps]:
    """Correlated rows, weights of four bits rounded to nearest."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(inputs, inputs, generator=generator) / inputs**0.5
    x = torch.randn(1, 2 * inputs, inputs, generator=generator)
    x = x @ mix + 0.5 * x
    w = torch.randn(1, outputs, inputs, generator=generator)
    scale = w.abs().amax(-1, keepdim=True) / 10
    low, high = torch.full_like(scale, -8), torch.full_like(scale, 7)
    start = Steps(torch.round(w / scale).clamp(low, high), scale, low, high)
    return centre_gram(Gram.of(x, x @ w.mT)), start


def least(work: Callable[[], object]) -> float:
    """Processor seconds of the fastest of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widest", type=int, default=2304)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    worst = 0
    for inputs, outputs, limit in SIZES:
        if inputs > asked.widest:
            break
        problem, start = problem_of(inputs, outputs)
        rounding, effort = Successive.of(problem), Effort()
        found, _ = descend(problem, start, True, effort)
        other, _ = descend_at_once(problem, start, True, effort)
        differ = int((found.k != other.k).sum())
        torch_s = least(lambda: descend_at_once(problem, start, True, effort))  # noqa: B023
        loop_s = least(lambda: descend(problem, start, True, effort))  # noqa: B023
        round_torch = least(lambda: rounding.rounded_at_once(start))  # noqa: B023
        round_loop = least(lambda: rounding.rounded(start))  # noqa: B023
        ratio = torch_s / loop_s
        print(
            f"{inputs:5} x {outputs:3}  descent {ratio:5.1f} times ({torch_s:.4f} to {loop_s:.4f} "
            f"s)  successive rounding {round_torch / round_loop:5.1f} times  {differ} of "
            f"{found.k.numel()} integers differ",
            flush=True,
        )
        worst |= ratio < limit
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
