"""ONNX Runtime as it runs on a processor without VNNI, on this one: under valgrind.

    valgrind --tool=none python -m benchmarks.old_processor FILE.onnx IMAGES.npy ANSWERS.npy

Valgrind's processor knows AVX2 and nothing beyond, so ONNX Runtime takes its kernels that add pairs
of products in signed 16 bits. It is some fifty times slower. Nothing but numpy and ONNX Runtime is
loaded here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort


def run(path: Path, images: np.ndarray) -> np.ndarray:
    """The outputs of a file for these images, one thread, all optimisations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = np.split(images, len(images))
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def answers_without_vnni(path: Path, images: np.ndarray) -> np.ndarray | None:
    """The same on a processor without VNNI; None where valgrind is not installed."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "images.npy", Path(folder) / "answers.npy"
        np.save(given, images)
        own = [sys.executable, "-m", "benchmarks.old_processor", str(path), str(given), str(made)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([valgrind, "--tool=none", "-q", *own], check=True, env=environment)
        return np.load(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("file", "images", "answers"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    np.save(given.answers, run(given.file, np.load(given.images)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
