"""A peer's AdaRound beside our quadratic solver: ResNet-20, w4a4, the same data, one process.

    python -m benchmarks.study.peers --data-root DIR [--iterations 1000]

Needs `aimet-torch` (not a dependency of this project; install it by hand, it is looked for in the
ordinary way). First and last layer at 8 bits, 1000 calibration images, one thread. Processor
seconds are of the quantisation alone: for us from capture to the stitched network, verification
and evaluation left out. Where the peer
is not installed only our line is measured. Writes docs/measured/peers.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

import bitwright as bw
from benchmarks.data import batches_of, network_of
from benchmarks.tables import MEASURED, data_root, markdown
from bitwright.engine.progress import Event, Progress

Answers = Callable[[Tensor], Tensor]


def ours(root: Path, method: str) -> tuple[Answers, float]:
    """Our solver through the Python API."""

    def tell(event: Event) -> None:
        # What follows is evaluation on the calibration samples, which the peer does not do.
        if (event.kind, event.stage) == ("start", "evaluate"):
            clock.append(time.process_time())

    clock: list[float] = []
    result = bw.quantize(
        network_of(root, "resnet20"), [x for x, _ in batches_of(root, "cifar_calib")],
        recipe="fixed", method=method, mode="sequential", scheme="w4a4", keep="first,last=w8a8",
        calib=1000,
        progress=Progress([tell]),
    )  # fmt: skip
    return result.model, clock[0]


def aimet(root: Path, iterations: int) -> tuple[Answers, float]:
    """The peer: layers equalised, batch-norms folded, AdaRound, encodings on the same images."""
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
    from aimet_torch.common.defs import QuantScheme
    from aimet_torch.cross_layer_equalization import equalize_model
    from aimet_torch.v2.quantsim import QuantizationSimModel

    net, images = network_of(root, "resnet20"), [x for x, _ in batches_of(root, "cifar_calib")]
    dummy = images[0][:1]
    equalize_model(net, input_shapes=tuple(dummy.shape), dummy_input=dummy)
    edges = [net.conv1, net.linear]
    given = AdaroundParameters(images, len(images), default_num_iterations=iterations)
    with tempfile.TemporaryDirectory() as folder:
        rounded = Adaround.apply_adaround(
            net, dummy, given, folder, "rounded", default_param_bw=4,
            param_bw_override_list=[(layer, 8) for layer in edges],
        )  # fmt: skip
        sim = QuantizationSimModel(
            rounded, dummy, QuantScheme.post_training_tf_enhanced, default_output_bw=4,
            default_param_bw=4,
        )  # fmt: skip
        for layer in (sim.model.conv1, sim.model.linear):
            layer.param_quantizers["weight"].bitwidth = 8
            for quantizer in (*layer.input_quantizers, *layer.output_quantizers):
                if quantizer is not None and layer is sim.model.linear:
                    quantizer.bitwidth = 8
        for quantizer in sim.model.conv1.input_quantizers:
            if quantizer is not None:
                quantizer.bitwidth = 8
        sim.set_and_freeze_param_encodings(f"{folder}/rounded.encodings")
    with torch.no_grad():
        sim.compute_encodings(lambda model: [model(x) for x in images])
    return sim.model, time.process_time()


def measured(root: Path, label: str, make: Callable[[], tuple[Answers, float]]) -> dict[str, Any]:
    """Processor seconds of making it, and its answers on the test images."""
    started = time.process_time()
    model, ended = make()
    seconds = ended - started
    reference = network_of(root, "resnet20")
    same = right = count = 0
    with torch.no_grad():
        for x, y in batches_of(root, "cifar_test_jpeg"):
            wanted, got = reference(x).argmax(1), model(x).argmax(1)
            same += int((wanted == got).sum())
            right += int((got == y).sum())
            count += len(x)
    row = {"label": label, "top1": right / count, "agreement": same / count, "seconds": seconds}
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--iterations", type=int, default=1000)
    arguments = parser.parse_args()
    root = data_root(arguments.data_root)
    torch.set_num_threads(1)
    rows = [
        measured(root, "Bitwright, quadratic, sequential", lambda: ours(root, "quadratic")),
    ]
    try:
        import aimet_torch  # noqa: F401
    except ImportError:
        print("aimet-torch is not installed: the peer's line is left out, nothing is written")
        return
    label = f"AIMET, AdaRound, {arguments.iterations} iterations a layer"
    rows.append(measured(root, label, lambda: aimet(root, arguments.iterations)))
    ratio = rows[1]["seconds"] / rows[0]["seconds"]
    columns = {
        "tool": "{label}",
        "top-1": "{top1:.2%}",
        "agreement": "{agreement:.2%}",
        "processor s": "{seconds:.1f}",
    }
    text = [
        "# A peer's AdaRound beside the quadratic solver",
        "",
        "Written by `python -m benchmarks.study.peers --data-root DIR`,",
        "both in one process, one thread:",
        "ResNet-20, w4a4, first and last layer at 8 bits, 1000 calibration and 5000 test images.",
        "The peer: cross-layer equalisation, AdaRound, ranges by signal to noise (tf_enhanced). It",
        "also quantises the sums of residual blocks, as its defaults have it.",
        "",
        markdown(rows, columns),
        "",
        f"The peer took {ratio:.1f} times our processor time.",
        "",
    ]
    (MEASURED / "peers.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
