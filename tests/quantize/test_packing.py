import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.quantize.packing import pack, unpack


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 8), rows=st.integers(1, 5), columns=st.integers(1, 70), seed=st.integers(0, 10**6))
def test_unpack_gives_back_what_pack_was_given(bits, rows, columns, seed):
    codes = torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed))
    words = pack(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (rows, -(-columns * bits // 32))
    assert torch.equal(unpack(words, bits, columns).long(), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_words_are_those_of_compressed_tensors(bits):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(0, 2**bits, (7, 53), generator=torch.Generator().manual_seed(bits))
    theirs = helpers.pack_to_int32((codes - 2 ** (bits - 1)).to(torch.int8), bits)
    assert torch.equal(pack(codes, bits), theirs)


def test_three_bit_codes_lie_next_to_each_other():
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]])
    expected = sum(int(code) << (3 * i) for i, code in enumerate(codes[0]))
    words = pack(codes, 3)[0].numpy().view("uint32")
    assert int(words[0]) | int(words[1]) << 32 == expected


def test_many_rows_are_packed_in_parts_without_a_seam():
    codes = torch.randint(0, 8, (2500, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack(pack(codes, 3), 3, 5).long(), codes)


def test_codes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="codes from 0 to 8 do not fit 3 bits"):
        pack(torch.tensor([[0, 8]]), 3)
