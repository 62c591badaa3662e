"""Workers that a run has no use for: it says so, and why."""

from __future__ import annotations

import pytest

import bitwright as bw
from bitwright.engine.progress import Progress
from networks import pictures, small_network


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "quadratic", "workers": 2}, ""),
        ({"method": "nearest", "workers": 2}, "--workers 2 is not used: --method nearest looks at"),
        ({"method": "quadratic", "workers": "ray"}, "--workers ray is not used: --mode sequential"),
        ({"method": "quadratic", "workers": 1}, ""),
        ({"method": "nearest"}, ""),
        ({"method": "quadratic", "workers": 2, "mode": "parallel"}, ""),
    ],
)
def test_idle_workers_are_told_of(options, said):
    notes = []
    progress = Progress([lambda event: notes.append(event.text) if event.kind == "note" else None])
    bw.quantize(
        small_network(),
        [pictures(16)],
        scheme="w4a8",
        progress=progress,
        **{"recipe": "fixed", **options},
    )
    about = [note for note in notes if "--workers" in note]
    assert about == [] if not said else len(about) == 1 and about[0].startswith(said)
