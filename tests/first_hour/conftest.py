"""The user's shell: the real command in processes of its own, every message printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from belongings import lay_out


@dataclass(frozen=True)
class Said:
    """How a command ended, what it wrote, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """All that the user saw, in one line, so that no break of lines matters."""
        return " ".join((self.out + " " + self.err).split())


@dataclass(frozen=True)
class Shell:
    """A user in their project's folder."""

    home: Path

    def __call__(self, line: str) -> Said:
        """Type `bitwright LINE`."""
        return self._run([sys.executable, "-m", "bitwright", *shlex.split(line)], line)

    def python(self, code: str) -> Said:
        """Run a cell of a notebook, or a script."""
        return self._run([sys.executable, "-c", code], "python -c ...")

    def _run(self, words: list[str], shown: str) -> Said:
        start = time.monotonic()
        done = subprocess.run(
            words, cwd=self.home, capture_output=True, text=True, check=False, timeout=170,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        seconds = time.monotonic() - start
        sys.stdout.write(f"\n$ bitwright {shown}\n{done.stdout}{done.stderr}")
        sys.stdout.write(f"[{done.returncode}, {seconds:.1f} s]\n")
        said = Said(done.returncode, done.stdout, done.stderr, seconds)
        assert "Traceback" not in said.text, said.text
        assert said.code in (0, 1, 2), said.text
        return said


@pytest.fixture(scope="session")
def shell(tmp_path_factory) -> Shell:
    return Shell(lay_out(tmp_path_factory.mktemp("first_hour")))
