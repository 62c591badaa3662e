"""--dynamic: heights and widths are free where that was tried, elsewhere fixed with a reason."""

from __future__ import annotations

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.export.free_images import capture_free
from networks import normal, pictures, seeded, small_network

IMAGES = pictures(16, size=8)


class Skips(nn.Module):
    """Halves the image twice and joins it with itself: sizes go in steps of four."""

    def __init__(self):
        super().__init__()
        self.body, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2, 2)
        self.up, self.last = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, image):
        wide = torch.relu(self.body(image))
        back = nn.functional.interpolate(self.up(self.down(self.down(wide))), scale_factor=2)
        return {"mask": self.last(torch.cat([wide, back], 1))}


class AllPixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 5)

    def forward(self, x):
        return self.last(torch.relu(self.body(x)).flatten(1))


class Sized(nn.Module):
    """Reads the size of its image as a number of Python."""

    def __init__(self):
        super().__init__()
        self.body, self.table = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.ones(1, 4, 8, 8))

    def forward(self, x):
        y = self.body(x)
        return (y + self.table if y.shape[-1] == 8 else y).mean((2, 3))


def texts(graph) -> list[str]:
    return [note.text for note in graph.notes if note.place == "--dynamic"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: small_network(width=8), "are free: tried on larger"),
        (Skips, "are free in steps of 4 pixels"),
    ],
)
def test_free_sizes_reach_the_file(tmp_path, make, said):
    result = bw.quantize(seeded(make).eval(), [IMAGES], recipe="fixed", dynamic=True)
    assert len(texts(result.graph)) == 1 and said in texts(result.graph)[0]
    path = result.export(tmp_path / "m.onnx")
    dims = onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]
    found = result.verify(path)
    assert found["passed"] and found["other_size"]["agreement"] == 1.0
    # Another size than any that was tried, and not square.
    larger = pictures(4, size=20)[:, :, :, :12]
    runtime = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = runtime.run(None, {runtime.get_inputs()[0].name: larger.numpy()})
    wanted = result.model(larger)
    wanted = wanted["mask"] if isinstance(wanted, dict) else wanted
    assert (torch.from_numpy(got) - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize(
    ("make", "said"), [(AllPixels, "stay fixed: the network itself refuses"), (Sized, "stay")]
)
def test_where_sizes_are_not_free_it_is_said(tmp_path, make, said):
    notes = []
    progress = Progress([lambda e: notes.append(e.text) if e.kind == "note" else None])
    result = bw.quantize(
        seeded(make).eval(), [IMAGES], recipe="fixed", dynamic=True, progress=progress
    )
    assert any("--dynamic" in text and said in text for text in notes)
    assert result.graph.inputs[0].shape == (None, 3, 8, 8)
    found = result.verify()
    assert found["passed"] and found["other_size"] is None


def test_without_images_there_is_nothing_to_free():
    graph = capture_free(seeded(lambda: nn.Linear(4, 2)).eval(), (normal(2, 4),))
    assert "no input is a batch of images" in texts(graph)[0]


def test_without_the_option_sizes_stay():
    result = bw.quantize(small_network(width=8), [IMAGES], recipe="fixed")
    assert result.graph.inputs[0].shape == (None, 3, 8, 8) and not texts(result.graph)


def test_a_saved_run_is_loaded_with_free_sizes(tmp_path):
    net = small_network(width=8)
    result = bw.quantize(net, [IMAGES], recipe="fixed", dynamic=True)
    result.save(tmp_path / "run")
    larger = pictures(4, size=12)
    assert torch.equal(bw.load(tmp_path / "run", model=net)(larger), result.model(larger))
