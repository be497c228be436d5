"""The codec beside zlib and zstandard."""

from __future__ import annotations

import os
import random
from array import array

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.engine.codec import LEVEL_MAX, LEVEL_MIN, Codec, CodecProfile, Decoder, Encoder
from dataplane.engine.scan import ChunkState
from dataplane.errors import UsageError
from tests.native.shapes import uint32s, unaligned
from tests.oracles.codecs import COMPRESSED, compress, decompress

LEVELS = (-50, -5, 1, 3, 9, None)
TEXT = b"".join(b"row %d of a table that compresses well\n" % number for number in range(2000))


def some_plain(kind: str, length: int) -> bytes:
    chance = random.Random(length)
    if kind == "random":
        return chance.randbytes(length)
    if kind == "zeros":
        return bytes(length)
    if kind == "text":
        return (TEXT * (1 + length // len(TEXT)))[:length]
    return chance.randbytes(length // 2) + bytes(length - length // 2)


def unzstd(encoded: bytes, length: int) -> bytes:
    return encoded if len(encoded) == length else zstandard.ZstdDecompressor().decompress(encoded)


# ------------------------------------------------------------------------------------------ encoder
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["random", "zeros", "text", "half"])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 100, 4096, 65536, 1 << 20])
def test_encode_bytes_decodes_to_the_same_and_never_grows(level: int | None, kind: str, length: int) -> None:
    plain = some_plain(kind, length)
    encoded = Encoder(level).encode_bytes(plain)
    assert len(encoded) <= length
    assert unzstd(encoded, length) == plain
    if kind == "random" or level is None:
        assert encoded == plain
    if length >= 4096 and kind == "text" and level is not None and level > 0:
        assert len(encoded) < length / 2


@given(plain=st.binary(max_size=5000), shift=st.integers(0, 9))
def test_encode_bytes_any_bytes_come_back(plain: bytes, shift: int) -> None:
    encoded = Encoder(1).encode_bytes(unaligned(plain, shift))
    assert len(encoded) <= len(plain)
    assert unzstd(encoded, len(plain)) == plain


def test_encode_boundary_of_gain_is_never_misread() -> None:
    """Around the point where compressing stops to pay, equal lengths must mean raw."""
    for tail in range(300):
        plain = random.Random(1).randbytes(300) + bytes(tail)
        encoded = Encoder(1).encode_bytes(plain)
        assert (encoded == plain) == (len(encoded) == len(plain))
        assert unzstd(encoded, len(plain)) == plain


def encode(
    encoder: Encoder, plain: bytes | memoryview, chunk_size: int, ids: bytes, states: bytes
) -> tuple[list[bytes], bytes, list[int]]:
    """Return encoded chunks, their ids and lengths, after checking that nothing else was written."""
    count = len(states)
    room, id_room, lengths = bytearray(b"\xee" * (count * chunk_size)), bytearray(32 * count), uint32s([0] * count)
    made, used = encoder.encode(plain, chunk_size, ids, states, room, id_room, lengths)
    sizes = list(lengths[:made])
    assert sum(sizes) == used
    assert id_room[32 * made :] == bytes(32 * (count - made))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(bytes(room[at : at + size]))
        at += size
    return pieces, bytes(id_room[: 32 * made]), sizes


@given(
    seed=st.integers(0, 1 << 20),
    states=st.lists(st.sampled_from(ChunkState), max_size=12),
    chunk_size=st.integers(1, 300),
    level=st.sampled_from(LEVELS),
)
def test_encode_takes_new_chunks_in_order(
    seed: int, states: list[ChunkState], chunk_size: int, level: int | None
) -> None:
    chance = random.Random(seed)
    chunks = [some_plain(chance.choice(["random", "text", "zeros"]), chunk_size) for _ in states]
    ids = chance.randbytes(32 * len(states))
    pieces, made_ids, _ = encode(Encoder(level), b"".join(chunks), chunk_size, ids, bytes(states))
    fresh = [place for place, state in enumerate(states) if state == ChunkState.NEW]
    assert made_ids == b"".join(ids[32 * place : 32 * place + 32] for place in fresh)
    assert [unzstd(piece, chunk_size) for piece in pieces] == [chunks[place] for place in fresh]


@pytest.mark.parametrize("level", [1, 3, 9])
def test_encoding_depends_on_the_chunk_alone(level: int) -> None:
    """storage_size must not depend on what an encoder did before, nor on where a buffer lies."""
    chance = random.Random(5)
    chunks = [some_plain(chance.choice(["text", "half", "random"]), 64 << 10) for _ in range(40)]
    chunks = [chance.randbytes(9) + chunk[9:] for chunk in chunks]
    alone = [Encoder(level).encode_bytes(chunk) for chunk in chunks]
    worn = Encoder(level)
    assert [worn.encode_bytes(unaligned(chunk, place % 7)) for place, chunk in enumerate(chunks)] == alone
    joined = b"".join(reversed(chunks))
    pieces, _, _ = encode(worn, joined, 64 << 10, bytes(32 * 40), bytes([ChunkState.NEW] * 40))
    assert pieces == alone[::-1]


def test_encode_of_more_data_than_states_leaves_the_rest() -> None:
    pieces, _, _ = encode(Encoder(None), b"abcdefgh", 4, bytes(32), bytes([ChunkState.NEW]))
    assert pieces == [b"abcd"]


@pytest.mark.parametrize("level", [LEVEL_MIN - 1, LEVEL_MAX + 1, 1 << 20])
def test_encoder_level_out_of_range_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="level"):
        Encoder(level)


@pytest.mark.parametrize("level", [LEVEL_MIN, 1, LEVEL_MAX])
def test_encoder_level_at_the_edge_works(level: int) -> None:
    assert unzstd(Encoder(level).encode_bytes(TEXT[:5000]), 5000) == TEXT[:5000]


@pytest.mark.parametrize(
    ("plain", "chunk_size", "digests", "states", "encoded", "ids", "lengths"),
    [
        (127, 64, 64, 2, 128, 64, 2),
        (128, 0, 64, 2, 128, 64, 2),
        (128, -1, 64, 2, 128, 64, 2),
        (128, 64, 63, 2, 128, 64, 2),
        (128, 64, 65, 2, 128, 64, 2),
        (128, 64, 64, 2, 127, 64, 2),
        (128, 64, 64, 2, 128, 63, 2),
        (128, 64, 64, 2, 128, 64, 1),
        (128, 1 << 62, 128, 4, 128, 128, 4),  # the product of the two leaves 64 bits
        (128, (1 << 63) - 1, 64, 2, 128, 64, 2),
    ],
)
def test_encode_wrong_shape_is_refused(
    plain: int, chunk_size: int, digests: int, states: int, encoded: int, ids: int, lengths: int
) -> None:
    new = bytes([ChunkState.NEW]) * states
    with pytest.raises(ValueError, match="chunks of"):
        Encoder(1).encode(
            bytes(plain), chunk_size, bytes(digests), new, bytearray(encoded), bytearray(ids), uint32s([0] * lengths)
        )


def test_encode_lengths_of_other_width_are_refused() -> None:
    with pytest.raises(ValueError, match="mismatch"):
        Encoder(1).encode(bytes(64), 64, bytes(32), b"\4", bytearray(64), bytearray(32), array("Q", [0]))


@pytest.mark.parametrize(
    ("text", "level"), [("none", None), ("zstd", 1), ("zstd:1", 1), ("zstd:-3", -3), (f"zstd:{LEVEL_MAX}", LEVEL_MAX)]
)
def test_codec_profile_reads_what_it_writes(text: str, level: int | None) -> None:
    profile = CodecProfile.parse(text)
    assert profile.level == level
    assert CodecProfile.parse(str(profile)) == profile


@pytest.mark.parametrize("text", ["", "none:1", "zstd:0", "zstd:99", "zstd:one", "zstd:1.5", "gzip", "ZSTD"])
def test_codec_profile_refuses_other_words(text: str) -> None:
    with pytest.raises(UsageError, match="codec"):
        CodecProfile.parse(text)


# ------------------------------------------------------------------------------------------ decoder
@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("kind", ["random", "zeros", "text", "half"])
@pytest.mark.parametrize("length", [1, 2, 100, 4096, 65536, 2 << 20])
@pytest.mark.parametrize("tail", [b"", b"\0", b"\xff" * 511])
def test_decode_matches_oracle(codec: Codec, kind: str, length: int, tail: bytes) -> None:
    plain = some_plain(kind, length)
    encoded = compress(codec, plain) + tail
    assert decompress(codec, encoded, length) == plain
    assert Decoder().decode_bytes(codec, encoded, length) == plain


@given(plain=st.binary(min_size=1, max_size=3000), codec=st.sampled_from(Codec), tail=st.binary(max_size=20))
def test_decode_any_bytes_come_back(plain: bytes, codec: Codec, tail: bytes) -> None:
    assert Decoder().decode_bytes(codec, compress(codec, plain) + tail, len(plain)) == plain


@pytest.mark.parametrize("codec", Codec)
def test_decode_cut_at_every_byte_is_noticed(codec: Codec) -> None:
    plain = TEXT[:300] + random.Random(2).randbytes(100)
    encoded = compress(codec, plain)
    decoder = Decoder()
    assert [cut for cut in range(len(encoded)) if decoder.decode_bytes(codec, encoded[:cut], 400) is not None] == []
    assert decoder.decode_bytes(codec, encoded, 400) == plain, "a failure leaves nothing behind"


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("wrong", [1, 3999, 4001, 8000, 1 << 22])
def test_decode_other_length_is_noticed(codec: Codec, wrong: int) -> None:
    for plain in (TEXT[:4000], random.Random(3).randbytes(4000)):
        assert Decoder().decode_bytes(codec, compress(codec, plain), wrong) is None


def test_decode_raw_is_a_prefix() -> None:
    assert Decoder().decode_bytes(Codec.RAW, b"abcdef", 4) == b"abcd"
    assert Decoder().decode_bytes(Codec.RAW, b"abc", 4) is None


@pytest.mark.parametrize("codec", COMPRESSED)
def test_decode_bomb_stops_at_its_bound(codec: Codec) -> None:
    bomb = compress(codec, bytes(64 << 20), level=9)
    assert len(bomb) < 100_000
    assert Decoder().decode_bytes(codec, bomb, 4096) is None


def test_decode_zstd_frame_without_content_size() -> None:
    plain = some_plain("half", 100_000)
    maker = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    encoded = maker.compress(plain) + maker.flush()
    assert zstandard.frame_content_size(encoded) == -1
    assert Decoder().decode_bytes(Codec.ZSTD, encoded + b"padding", len(plain)) == plain
    assert Decoder().decode_bytes(Codec.ZSTD, encoded, len(plain) - 1) is None
    assert Decoder().decode_bytes(Codec.ZSTD, encoded, len(plain) + 1) is None


def test_decode_zstd_frames_one_behind_the_other() -> None:
    parts = [TEXT[:1000], b"", random.Random(4).randbytes(500), TEXT[1000:3000]]
    skippable = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"skip me"
    encoded = skippable + skippable.join(compress(Codec.ZSTD, part) for part in parts)
    plain = b"".join(parts)
    assert Decoder().decode_bytes(Codec.ZSTD, encoded + b"garbage", len(plain)) == plain
    assert Decoder().decode_bytes(Codec.ZSTD, encoded, 1000) == parts[0], "later frames are not needed"
    assert Decoder().decode_bytes(Codec.ZSTD, encoded, 1400) is None, "a frame that reaches past the end"
    assert Decoder().decode_bytes(Codec.ZSTD, encoded, len(plain) + 1) is None
    assert Decoder().decode_bytes(Codec.ZSTD, skippable * 1000, 1) is None


def test_decode_zstd_window_as_large_as_a_frame_can_ask_for() -> None:
    """One-shot decoding keeps its history in the target, so the header's window takes no memory."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    maker = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    encoded = maker.compress(TEXT) + maker.flush()
    assert zstandard.get_frame_parameters(encoded).window_size == 1 << 27
    assert Decoder().decode_bytes(Codec.ZSTD, encoded, len(TEXT)) == TEXT


def test_decode_zstd_checksum_is_checked() -> None:
    encoded = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(TEXT))
    encoded[-1] ^= 1
    assert Decoder().decode_bytes(Codec.ZSTD, encoded, len(TEXT)) is None


@given(
    codec=st.sampled_from(COMPRESSED),
    seed=st.integers(0, 50),
    flips=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 7)), min_size=1, max_size=4),
    length=st.integers(1, 6000),
)
@example(codec=Codec.ZSTD, seed=0, flips=[(4, 0)], length=3000)
def test_decode_flipped_bits_never_leave_the_bounds(
    codec: Codec, seed: int, flips: list[tuple[int, int]], length: int
) -> None:
    plain = TEXT[seed : seed + 2000] + random.Random(seed).randbytes(1000)
    encoded = bytearray(compress(codec, plain))
    for place, bit in flips:
        encoded[place % len(encoded)] ^= 1 << bit
    decoded = Decoder().decode_bytes(codec, encoded, length)
    assert decoded is None or len(decoded) == length


@given(codec=st.sampled_from(COMPRESSED), garbage=st.binary(max_size=200), length=st.integers(1, 1000))
def test_decode_garbage_never_leaves_the_bounds(codec: Codec, garbage: bytes, length: int) -> None:
    decoded = Decoder().decode_bytes(codec, garbage, length)
    assert decoded is None or len(decoded) == length


@pytest.mark.parametrize("codec", [-1, 4, 1 << 20])
def test_decode_unknown_codec_is_none(codec: int) -> None:
    assert Decoder().decode_bytes(codec, b"abc", 3) is None


def test_decode_to_nothing_and_to_less() -> None:
    assert Decoder().decode_bytes(Codec.ZSTD, b"", 0) == b""
    assert Decoder().decode_bytes(Codec.ZLIB, b"", 1) is None
    with pytest.raises(ValueError, match="-1"):
        Decoder().decode_bytes(Codec.RAW, b"abc", -1)


@pytest.mark.parametrize("level", [None, 1, 3])
def test_encoded_length_is_that_of_the_encoded_bytes(level: int | None) -> None:
    encoder, room = Encoder(level), bytearray(70_000)
    for plain in (b"", b"x", b"word " * 9000, os.urandom(65_536)):
        encoded = encoder.encode_bytes(plain)
        assert encoder.encoded_length(plain, room) == len(encoded)
        assert room[: len(encoded)] == encoded
    with pytest.raises(ValueError, match="do not fit"):
        encoder.encoded_length(bytes(70_001), room)
