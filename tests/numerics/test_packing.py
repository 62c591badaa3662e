from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import DataError
from bitwright.numerics.grid import WIDTHS, Grid
from bitwright.numerics.packing import pack, pack_channels, unpack, unpack_channels


@given(
    st.sampled_from(WIDTHS),
    st.booleans(),
    st.sampled_from([(), (0,), (1,), (7,), (8,), (9,), (3, 5), (2, 3, 4), (2, 0)]),
    st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_unpacking_inverts_packing(bits, signed, shape, seed):
    grid = Grid(bits, signed)
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(grid.qmin, grid.qmax + 1, shape, generator=generator).to(grid.dtype)
    packed = pack(q, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (-(-q.numel() * bits // 8),)
    back = unpack(packed, bits, signed, shape)
    assert back.dtype == grid.dtype and back.shape == q.shape
    assert torch.equal(back.to(torch.int32), q.to(torch.int32))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("signed", [False, True])
def test_bits_lie_in_little_endian_order(bits, signed):
    grid = Grid(bits, signed)
    q = torch.randint(grid.qmin, grid.qmax + 1, (29,)).to(grid.dtype)
    stream = sum((int(v) & (grid.levels - 1)) << (i * bits) for i, v in enumerate(q.tolist()))
    assert bytes(pack(q, bits).tolist()) == stream.to_bytes(-(-29 * bits // 8), "little")


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_the_bytes_are_those_of_onnx(bits, signed):
    grid = Grid(bits, signed)
    q = torch.arange(grid.qmin, grid.qmin + 11).clamp(max=grid.qmax)
    kind = getattr(onnx.TensorProto, f"{'INT' if signed else 'UINT'}{bits}")
    proto = onnx.helper.make_tensor("w", kind, [11], pack(q, bits).numpy().tobytes(), raw=True)
    assert onnx.numpy_helper.to_array(proto).astype(np.int64).tolist() == q.tolist()


def test_bits_beyond_the_width_are_cut_off():
    assert unpack(pack(torch.tensor([-1, 9, 16]), 4), 4, False, (3,)).tolist() == [15, 9, 0]


def test_wrong_input_is_refused():
    with pytest.raises(DataError, match=r"torch.float32 in pack: quantise it"):
        pack(torch.zeros(3), 4)
    with pytest.raises(DataError, match=r"3 values of torch.uint8 in unpack: .* needs 2 values"):
        unpack(torch.zeros(3, dtype=torch.uint8), 4, False, (4,))
    with pytest.raises(DataError, match="bits=9 in pack: integers are stored in 2 to 8 bits"):
        pack(torch.zeros(3, dtype=torch.int8), 9)


@pytest.mark.parametrize("signed", [False, True])
def test_slices_of_different_widths(signed):
    generator = torch.Generator().manual_seed(0)
    widths = (4, 2, 8, 3, 4, 2)
    rows = [
        torch.randint(Grid(b, signed).qmin, Grid(b, signed).qmax + 1, (5, 3), generator=generator)
        for b in widths
    ]
    q = torch.stack(rows).to(Grid(8, signed).dtype)
    packed = pack_channels(q, widths)
    assert packed.numel() == sum(-(-n * 15 * b // 8) for b, n in ((2, 2), (3, 1), (4, 2), (8, 1)))
    assert torch.equal(unpack_channels(packed, widths, signed, q.shape), q)
