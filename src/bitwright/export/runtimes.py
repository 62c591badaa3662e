"""The runtimes that files are judged and timed in, behind one small protocol.

`find_runtime("onnxruntime").load(path).run(feed)`: whoever verifies or times a file needs no more.
OpenVINO is optional and is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from bitwright.errors import InputError, unknown
from bitwright.export.runtime import RUNTIME_ERRORS, first_line, session

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"


class RuntimeRefusal(Exception):
    """A runtime cannot load or run a file; the message is what it says, in a line."""


class LoadedFile(Protocol):
    """A file that a runtime has loaded, ready to run."""

    inputs: tuple[str, ...]

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, in the file's order, on named arrays; may raise `RuntimeRefusal`."""
        ...


class Runtime(Protocol):
    """What loads files and runs them.

    Attributes:
        name: as targets and commands name it.
        label: as people name it.
        module: the Python module that has to be installed.
    """

    name: str
    label: str
    module: str

    def version(self) -> str:
        """Of the installed runtime."""
        ...

    def load(
        self,
        model: bytes | Path,
        optimized: bool = True,
        threads: int = 0,
        precise: bool = True,
    ) -> LoadedFile:
        """A file made ready on the CPU.

        Args:
            model: the file, or its bytes.
            optimized: with the graph optimisations that users have; without, as it is written.
            threads: of one run; 0 leaves it to the runtime.
            precise: floats are computed in 32 bits, as judging needs. Off: in the types that the
                runtime takes by itself (OpenVINO: bfloat16 on processors that have it, and inputs
                of weight-only layers quantised).

        Raises:
            RuntimeRefusal: it cannot be loaded.
        """
        ...


class _OrtFile:
    def __init__(self, loaded: ort.InferenceSession) -> None:
        self._session = loaded
        self.inputs = tuple(i.name for i in loaded.get_inputs())

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return [np.asarray(value) for value in self._session.run(None, dict(feed))]
        except RUNTIME_ERRORS as error:
            raise RuntimeRefusal(first_line(error)) from error


class OnnxRuntime:
    """ONNX Runtime on the CPU; its floats are always of 32 bits."""

    name, label, module = ONNX_RUNTIME, "ONNX Runtime", "onnxruntime"

    def version(self) -> str:
        """Of the installed package."""
        return str(ort.__version__)

    def load(
        self,
        model: bytes | Path,
        optimized: bool = True,
        threads: int = 0,
        precise: bool = True,  # noqa: ARG002
    ) -> LoadedFile:
        """See `Runtime.load`."""
        try:
            return _OrtFile(session(model, optimized, threads))
        except RUNTIME_ERRORS as error:
            raise RuntimeRefusal(first_line(error)) from error


class _OpenVinoFile:
    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = tuple(port.any_name for port in compiled.inputs)
        self._outputs = len(compiled.outputs)

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            found = self._request.infer(dict(feed))
        except (RuntimeError, TypeError, ValueError) as error:
            raise RuntimeRefusal(_last_words(error)) from error
        # Copies: the request writes its next results into the same memory.
        return [np.array(found[place]) for place in range(self._outputs)]


class OpenVino:
    """OpenVINO on the CPU.

    Unoptimised means without its low-precision transformations: dequantise, then compute in float.
    """

    name, label, module = OPENVINO, "OpenVINO", "openvino"

    def version(self) -> str:
        """Of the installed package."""
        return str(self._import().__version__)

    def load(
        self,
        model: bytes | Path,
        optimized: bool = True,
        threads: int = 0,
        precise: bool = True,
    ) -> LoadedFile:
        """See `Runtime.load`."""
        settings: dict[str, str | int | bool] = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        if precise:
            settings |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        if not optimized:
            settings["LP_TRANSFORMS_MODE"] = False
        core = self._import().Core()
        try:
            read = core.read_model(str(model) if isinstance(model, Path) else model)
            return _OpenVinoFile(core.compile_model(read, "CPU", settings))
        except RuntimeError as error:
            raise RuntimeRefusal(_last_words(error)) from error

    def _import(self) -> Any:
        require_runtime(self.name)
        return importlib.import_module("openvino")


RUNTIMES: Mapping[str, Runtime] = {each.name: each for each in (OnnxRuntime(), OpenVino())}


def find_runtime(name: str) -> Runtime:
    """A runtime by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in RUNTIMES:
        raise InputError(unknown("runtime", name, RUNTIMES))
    return RUNTIMES[name]


def is_installed(name: str) -> bool:
    """Whether a runtime's package can be imported here; it is not loaded for that."""
    return importlib.util.find_spec(find_runtime(name).module) is not None


def require_runtime(name: str) -> Runtime:
    """A runtime that is installed.

    Raises:
        InputError: it is not; with the command that installs it.
    """
    runtime = find_runtime(name)
    if not is_installed(name):
        raise InputError(
            f"{runtime.label} is asked for and not installed. Install it: "
            f"pip install 'bitwright[{runtime.name}]'."
        )
    return runtime


def list_installed() -> Sequence[str]:
    """The runtimes that files can be run in here."""
    return [name for name in RUNTIMES if is_installed(name)]


def _last_words(error: BaseException) -> str:
    """What OpenVINO says of an error: the last line after those that name its own sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (own or lines or ["no message"])[-1][:300]
