"""Kill -9 in the middle of a run, again and again: nothing is lost, nothing is done twice.

    python -m benchmarks.guards.resume --data-root DIR [--network efficientnet_lite0] [--kills 20]

One run is left alone; another is killed at random instants and started again until it is through.
Both must give the same model.safetensors byte for byte, and an entry that is in the store is never
written a second time. Writes docs/measured/resume.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from tests.kill import run_with_kills

from benchmarks.tables import MEASURED, data_root

# What is tested again by every run of the tests.
TESTED = (
    "## In the tests",
    "",
    "A small network, so that a life takes a second (`tests/engine/test_lives.py`,",
    "`tests/engine/test_failing_disk.py`; marked slow, part of `make test`):",
    "",
    "- 210 kills at random instants over seven modes (nearest, parallel, sequential, a menu with a",
    "  budget, refined and tuned, AdaRound, lossless), half of them into a folder that holds a",
    "  whole run: the same bytes in the end, and after every kill a run is either whole, by its",
    "  manifest, or refused.",
    "- Every rename is a crash point, in a new folder and in one that holds a run.",
    '- Every n-th write fails with "no space left", every n-th flush with an input/output error,',
    '  every n-th rename with "read-only", and all after it, for `quantize`, `verify`, `export`,',
    "  `report`, `allocate` and `frontier`: one sentence, exit code 2, and the same bytes when the",
    "  command runs again.",
    "",
)


def entries(store: Path) -> dict[str, tuple[int, int]]:
    """Every file of the store, by when it was written and which it is."""
    found = {}
    for path in store.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".tmp":
            stat = path.stat()
            found[str(path.relative_to(store))] = (stat.st_mtime_ns, stat.st_ino)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--data", default="lite0_calib")
    parser.add_argument("--mode", default="sequential")
    parser.add_argument("--calib", default="100")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=0.0, help="seconds; 0: half of a run")
    arguments = parser.parse_args()
    root = data_root(arguments.data_root)
    with tempfile.TemporaryDirectory() as folder:

        def command(name: str) -> list[str]:
            return [
                sys.executable, "-m", "bitwright.cli", "quantize", "--recipe", "fixed",
                f"{root}/models.py:{arguments.network}",
                "--data", f"{root}/loaders.py:{arguments.data}", "--calib", arguments.calib,
                "--scheme", "w4a4", "--keep", "first,last=w8a8", "--method", "quadratic",
                "--mode", arguments.mode, "--store", f"{folder}/store_{name}",
                "--out", f"{folder}/{name}", "--quiet",
            ]  # fmt: skip

        environment = {"OMP_NUM_THREADS": "1"}
        started = time.perf_counter()
        run_with_kills(command("whole"), 0, 1.0, env=environment, limit_s=3600)
        seconds = time.perf_counter() - started
        store = Path(folder) / "store_killed"
        seen: dict[str, tuple[int, int]] = {}
        twice: list[str] = []
        counts: list[int] = []

        def look(life: int) -> None:
            del life
            now = entries(store) if store.exists() else {}
            twice.extend(k for k, v in seen.items() if now.get(k) != v)
            seen.update(now)
            counts.append(len(now))

        longest = arguments.longest or seconds / 2
        ordeal = run_with_kills(
            command("killed"), arguments.kills, longest, before=look, env=environment, limit_s=3600
        )
        look(-1)
        whole, killed = (
            hashlib.sha256((Path(folder) / n / "model.safetensors").read_bytes()).hexdigest()
            for n in ("whole", "killed")
        )
    same = whole == killed
    lines = [
        "# Killed and started again",
        "",
        "Written by `python -m benchmarks.guards.resume --data-root DIR`.",
        "",
        f"{arguments.network}, {arguments.calib} samples, quadratic, {arguments.mode}, w4a4. A run",
        f"left alone took {seconds:.0f} s. Another was killed with signal 9 {ordeal.kills}",
        f"times, at instants drawn evenly from 0 to {longest:.0f} s after each start.",
        "",
        f"- model.safetensors: {'the same bytes' if same else 'DIFFERENT'} (sha256 {whole[:16]}).",
        f"- Entries of the store written a second time: {len(set(twice))} of {len(seen)}.",
        f"- Entries there when each life began: {', '.join(map(str, counts))}.",
        "",
        *TESTED,
    ]
    (MEASURED / "resume.md").write_text("\n".join(lines))
    print("\n".join(lines))
    sys.exit(0 if same and not twice else 1)


if __name__ == "__main__":
    main()
