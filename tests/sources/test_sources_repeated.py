from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from bitwright.sources.batches import digest, take
from bitwright.sources.data import as_dataset, load_data


class Augmented(Dataset):
    """Samples that draw from all three global generators, as augmentation does."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        noise = torch.rand(2) + np.random.rand() + random.random()
        return torch.tensor([float(index), 0.0]) + noise, index


ROWS = TensorDataset(torch.arange(23.0).view(-1, 1))
LOADERS = {
    "shuffle": lambda: DataLoader(ROWS, batch_size=4, shuffle=True),
    "a generator": lambda: DataLoader(
        ROWS, 4, shuffle=True, generator=torch.Generator().manual_seed(7)
    ),
    "drop_last": lambda: DataLoader(ROWS, 4, shuffle=True, drop_last=True),
    "no batches": lambda: DataLoader(ROWS.tensors[0].unsqueeze(1), None, shuffle=True),
    "subset": lambda: DataLoader(ROWS, 4, sampler=SubsetRandomSampler(range(5, 20))),
    "weighted": lambda: DataLoader(ROWS, 4, sampler=WeightedRandomSampler([1.0] * 23, 12)),
    "batches": lambda: DataLoader(ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 4, False)),
    "augmented": lambda: DataLoader(Augmented(), 4, shuffle=True),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_every_pass_gives_the_same_samples(make):
    loader = make()
    data = as_dataset(loader)
    seen = [torch.cat([b.inputs[0] for b in data]) for _ in range(3)]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert digest(take(data, 9)) == digest(take(as_dataset(make()), 9))
    order = seen[0].flatten().tolist()
    assert order != sorted(order)
    assert len(data.notes) == 1 and "a DataLoader that shuffles" in data.notes[0]


def test_all_samples_come_and_the_loader_is_left_alone():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(ROWS, 4, shuffle=True, generator=generator)
    before = generator.get_state()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    found = sorted(v for b in as_dataset(loader) for v in b.inputs[0].flatten().tolist())
    assert found == list(range(23))
    assert torch.equal(generator.get_state(), before) and type(loader.sampler) is RandomSampler
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]


def test_a_pass_is_not_disturbed_by_what_is_drawn_between_its_batches():
    data = as_dataset(DataLoader(Augmented(), 4, shuffle=True))
    plain = [b.inputs[0] for b in data]
    drawn = []
    for batch in data:
        torch.rand(5), np.random.rand(3), random.random()
        drawn.append(batch.inputs[0])
    assert all(torch.equal(a, b) for a, b in zip(plain, drawn, strict=True))


def test_workers_draw_the_same_augmentation():
    """In a process that has no threads yet: a loader forks, and a fork of many threads may die."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from torch.utils.data import DataLoader\n"
        "from bitwright.sources.batches import digest\n"
        "from bitwright.sources.data import as_dataset\n"
        "from test_sources_repeated import Augmented\n"
        "data = as_dataset(DataLoader(Augmented(), 8, shuffle=True, num_workers=1))\n"
        "print(digest(data) == digest(data))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_process_of_its_own_draws_the_same(tmp_path):
    (tmp_path / "d.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "def f():\n"
        "    return DataLoader(TensorDataset(torch.arange(40.0)[:, None]), 8, shuffle=True)\n"
    )
    spec = f"{tmp_path / 'd.py'}:f"
    code = (
        "from bitwright.sources.batches import digest\n"
        "from bitwright.sources.data import load_data\n"
        f"print(digest(load_data({spec!r})))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == digest(load_data(spec))


def test_a_loader_in_order_has_no_note():
    data = as_dataset(DataLoader(ROWS, 4))
    assert len(list(data)) == 6 and data.notes == []
