"""mypy checks a user's call of `bw.quantize`: names of options and their types."""

import subprocess
import sys
from pathlib import Path

import bitwright

ROOT = Path(bitwright.__file__).parents[2]
CALLS = """import torch
import bitwright as bw
net, data = torch.nn.Linear(4, 2), [torch.ones(3, 4)]
bw.quantize(net, data, scheme="w4a8", target=bw.load_target("paper"), menu=[bw.Choice(4, 8)])
bw.quantize(net, data, shceme="w4a8")
bw.quantize(net, data, seed="three")
"""


def test_mypy_checks_a_call(tmp_path):
    """Three seconds where mypy has seen the package before, as in `make check`."""
    file = tmp_path / "user.py"
    file.write_text(CALLS)
    words = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *words], capture_output=True, text=True, cwd=ROOT
    )
    told = [line for line in found.stdout.splitlines() if " error: " in line]
    assert [int(line.split(":")[1]) for line in told] == [5, 6], found.stdout
    assert 'did you mean "scheme"' in told[0] and 'expected "int"' in told[1]
