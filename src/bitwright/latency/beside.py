"""What ONNX Runtime's own quantiser makes of a float file, to be timed beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from bitwright.errors import InputError
from bitwright.export.runtime import RUNTIME_ERRORS, first_line
from bitwright.latency.feeds import ArrayFeed

STATIC, DYNAMIC = "onnxruntime static", "onnxruntime dynamic"
# What its quantiser raises for a file that it cannot take.
_ERRORS = (*RUNTIME_ERRORS, ValueError, TypeError, LookupError, RuntimeError, AttributeError)


class _Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds one by one, as the quantiser asks for them."""

    def __init__(self, feeds: Iterable[ArrayFeed]) -> None:
        self.feeds: Iterator[ArrayFeed] = iter(feeds)

    def get_next(self) -> dict[str, object] | None:
        """The next feed; None at the end."""
        feed = next(self.feeds, None)
        return None if feed is None else dict(feed)


def quantize_beside(
    source: Path, feeds: Iterable[ArrayFeed], folder: Path
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files by ONNX Runtime's quantiser: static on samples, and dynamic.

    Static: 8 bits, QuantizeLinear and DequantizeLinear, a scale a channel, min/max ranges; a file
    prepared by its own pre-processing. Dynamic: signed weights of 8 bits.

    Args:
        source: the float file.
        feeds: samples of the static quantiser.
        folder: where the files are put.

    Returns:
        The files by name, and a sentence for each that could not be made.
    """
    made: dict[str, Path] = {}
    told: list[str] = []
    ready = folder / "prepared.onnx"
    try:
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    except _ERRORS as error:
        told.append(f"its pre-processing refuses the float file: {first_line(error)}")
        ready = source
    kinds = quantization.QuantType
    for name, file in ((STATIC, folder / "static.onnx"), (DYNAMIC, folder / "dynamic.onnx")):
        try:
            if name == STATIC:
                quantization.quantize_static(
                    str(ready), str(file), _Samples(feeds), per_channel=True,
                    activation_type=kinds.QUInt8, weight_type=kinds.QInt8,
                )  # fmt: skip
            else:
                quantization.quantize_dynamic(str(ready), str(file), weight_type=kinds.QInt8)
        except _ERRORS as error:
            told.append(f"{name} refuses the float file: {first_line(error)}")
            continue
        made[name] = file
    return made, tuple(told)


def require_float(path: Path | None) -> Path:
    """The float file that a runtime's own quantiser is given.

    Raises:
        InputError: there is none.
    """
    if path is None:
        raise InputError(
            "--beside quantises the float network, and none of the files is float or can be turned "
            "back into it. Give the float file too."
        )
    return path
