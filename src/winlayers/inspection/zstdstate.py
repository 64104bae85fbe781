"""What a zstd decoder has learnt by some block, as a dictionary: to begin in the middle of a frame.

A block leans on what came before it: plain data within the window, the last Huffman tree, the last three FSE
tables, the last three offsets.  No library tells its decoder's state, but a zstd *dictionary* is made of the
same five things in the same serialised forms.  So the state before a block can be written as a dictionary;
with it, and a frame header in front, any decoder begins at that block.

Trees and tables are cut out of the blocks that brought them, without decoding.  Offsets are known after
decoding the sequences of a block or a few (no literals, no data: what is decoded is only where sequences
point to).  A table of a single symbol has no form in a dictionary: where one is in force there is no
dictionary, and the next block is as good.

Sources: RFC 8878, 3.1.1.3 (blocks), 4.1.1 (FSE tables), 4.2.1 (Huffman trees), 5 (dictionaries).
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DICTIONARY_MAGIC = b"\x37\xa4\x30\xec"
COMPRESSED_BLOCK = 2

_LITERAL_LENGTHS, _OFFSETS, _MATCH_LENGTHS = 0, 1, 2  # in the order in which a block has them
_PREDEFINED, _SINGLE, _TABLE, _REPEATED = 0, 1, 2, 3  # modes
_TREELESS = 3
_MAX_ACCURACY = (9, 8, 9)

_LITERAL_BITS = bytes([*[0] * 16, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
_MATCH_BITS = bytes([*[0] * 32, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
"""Extra bits by code: RFC 8878, 3.1.1.3.2.1.1."""

_DEFAULTS = (
    [4, 3, *[2] * 11, 1, 1, 1, *[2] * 9, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1],
    [1, 1, 1, 1, 1, 1, 2, 2, 2, *[1] * 15, -1, -1, -1, -1, -1],
    [1, 4, 3, 2, 2, 2, 2, 2, 2, *[1] * 37, *[-1] * 7],
)
"""The predefined distributions, of accuracy 6, 5, 6: RFC 8878, 3.1.1.3.2.2."""
_DEFAULT_ACCURACY = (6, 5, 6)
_SOME_TREE = b"\x80\x10"
"""A Huffman tree for two symbols, where there was none so far: it can't be asked for."""

_HELD = 3
"""Blocks with sequences from which the last offsets may be learnt: nearly always one is enough."""

_Offsets = tuple[int | None, int | None, int | None]


class _Table(NamedTuple):
    """An FSE table, ready to decode: its accuracy, and by state the symbol, bits to read, and base."""

    accuracy: int
    states: tuple[tuple[int, int, int], ...]


def _read_distribution(data: bytes, at: int, limit: int) -> tuple[int, list[int], int]:
    """The table description at *at*: accuracy, probabilities, and where it ends."""
    window = int.from_bytes(data[at : at + 300], "little")  # longer than any description
    accuracy = (window & 15) + 5
    if accuracy > limit:
        raise ValueError("an FSE table is too large")
    bit, left = 4, 1 << accuracy
    distribution: list[int] = []
    while left > 0:
        if len(distribution) > 64:
            raise ValueError("an FSE table has too many symbols")
        bits = (left + 1).bit_length()
        value = window >> bit & (1 << bits) - 1
        half = (1 << bits - 1) - 1
        threshold = (1 << bits) - 1 - (left + 1)
        bit += bits
        if value & half < threshold:
            bit -= 1
            value &= half
        elif value > half:
            value -= threshold
        probability = value - 1
        left -= abs(probability)
        distribution.append(probability)
        if probability == 0:
            while True:
                zeros = window >> bit & 3
                bit += 2
                distribution += [0] * zeros
                if zeros < 3:
                    break
    if left:
        raise ValueError("an FSE table's probabilities do not add up")
    return accuracy, distribution, at + (bit + 7) // 8


def _write_distribution(accuracy: int, distribution: Sequence[int]) -> bytes:
    """The description of a table without probabilities of zero."""
    value, bit, left = accuracy - 5, 4, 1 << accuracy
    for probability in distribution:
        bits = (left + 1).bit_length()
        half = (1 << bits - 1) - 1
        threshold = (1 << bits) - 1 - (left + 1)
        number = probability + 1
        if number < threshold:
            bits -= 1
        elif number > half:
            number += threshold
        value |= number << bit
        bit += bits
        left -= abs(probability)
    return value.to_bytes((bit + 7) // 8, "little")


def _decoding_table(accuracy: int, distribution: Sequence[int]) -> _Table:
    size = 1 << accuracy
    symbols = [0] * size
    following = list(distribution)
    high = size
    for symbol, probability in enumerate(distribution):
        if probability == -1:
            high -= 1
            symbols[high] = symbol
            following[symbol] = 1
    step, position = (size >> 1) + (size >> 3) + 3, 0
    for symbol, probability in enumerate(distribution):
        for _ in range(probability):
            symbols[position] = symbol
            position = (position + step) & (size - 1)
            while position >= high:
                position = (position + step) & (size - 1)
    states = []
    for symbol in symbols:
        number = following[symbol]
        following[symbol] += 1
        bits = accuracy + 1 - number.bit_length()
        states.append((symbol, bits, (number << bits) - size))
    return _Table(accuracy, tuple(states))


@functools.cache
def _default(which: int) -> tuple[_Table, bytes]:
    """A predefined table, and its description."""
    accuracy, distribution = _DEFAULT_ACCURACY[which], _DEFAULTS[which]
    return _decoding_table(accuracy, distribution), _write_distribution(accuracy, distribution)


class _Described:
    """The tables that one block brought, looked at when they are needed."""

    def __init__(self, data: bytes, modes: int) -> None:
        """*data* is what follows the byte *modes*."""
        self._data = data
        self.modes = (modes >> 6 & 3, modes >> 4 & 3, modes >> 2 & 3)

    @functools.cached_property
    def _parsed(self) -> tuple[list[tuple[_Table, bytes | None] | None], bytes]:
        """Tables with their descriptions (or None: repeated), and the bit stream behind them."""
        at = 0
        tables: list[tuple[_Table, bytes | None] | None] = []
        for which, mode in enumerate(self.modes):
            if mode == _PREDEFINED:
                tables.append(_default(which))
            elif mode == _SINGLE:
                tables.append((_Table(0, ((self._data[at], 0, 0),)), None))
                at += 1
            elif mode == _TABLE:
                accuracy, distribution, end = _read_distribution(self._data, at, _MAX_ACCURACY[which])
                tables.append((_decoding_table(accuracy, distribution), self._data[at:end]))
                at = end
            else:
                tables.append(None)
        return tables, self._data[at:]

    def table(self, which: int) -> tuple[_Table, bytes | None]:
        """A table and its description; None: it is a single symbol."""
        return self._parsed[0][which] or _default(which)

    @property
    def stream(self) -> bytes:
        """The sequences."""
        return self._parsed[1]


_Sources = tuple[_Described | None, ...]
"""For each of the three tables the block that brought it; None: none did."""


def _table(sources: _Sources, which: int) -> tuple[_Table, bytes | None]:
    source = sources[which]
    return _default(which) if source is None else source.table(which)


class _Sequences(NamedTuple):
    """The sequences of one block: how many, the block, and where its tables are from."""

    number: int
    block: _Described
    sources: _Sources


class FrameState:
    """What a decoder of one frame knows between blocks, but for plain data.

    A few blocks are held until they are looked at, which :meth:`dictionary` does.
    """

    def __init__(self) -> None:
        self._tree = _SOME_TREE
        self._sources: _Sources = (None, None, None)
        self._recent: collections.deque[_Sequences] = collections.deque(maxlen=_HELD)
        self._forgot = False  # whether there were more

    def note(self, data: bytes) -> None:
        """Take note of a compressed block (without its header) that a decoder has accepted.

        Blocks of other kinds change nothing.

        Raises:
            ValueError, IndexError: it is malformed all the same.
        """
        at = self._literals(data)
        count, at = _sequence_count(data, at)
        if count:
            block = _Described(data[at + 1 :], data[at])
            self._sources = tuple(
                source if mode == _REPEATED else block
                for mode, source in zip(block.modes, self._sources, strict=True)
            )
            self._forgot = self._forgot or len(self._recent) == _HELD
            self._recent.append(_Sequences(count, block, self._sources))

    def _literals(self, data: bytes) -> int:
        """Pass the literals; return where the sequences begin."""
        kind, form = data[0] & 3, data[0] >> 2 & 3
        if kind < COMPRESSED_BLOCK:
            header, shift = ((1, 3), (2, 4), (1, 3), (3, 4))[form]
            size = int.from_bytes(data[:header], "little") >> shift
            return header + (size if kind == 0 else 1)
        header, bits = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
        size = int.from_bytes(data[:header], "little") >> 4 + bits
        if kind != _TREELESS:
            first = data[header]
            length = 1 + (first if first < 128 else (first - 126) // 2)
            self._tree = data[header : header + length]
        return header + size

    def dictionary(self, content: bytes, budget: int) -> bytes | None:
        """The state as a dictionary; *content* is the plain data before the next block, a window of it.

        Args:
            budget: how many sequences may be decoded for it.

        Returns:
            None: it can't be told here.

        Raises:
            ValueError, IndexError: a block was malformed.
        """
        tables = [_table(self._sources, w)[1] for w in (_OFFSETS, _MATCH_LENGTHS, _LITERAL_LENGTHS)]
        offsets = self._offsets(budget)
        if offsets is None or not all(0 < offset <= len(content) for offset in offsets):
            return None
        parts = [DICTIONARY_MAGIC, (1).to_bytes(4, "little"), self._tree]
        for table in tables:
            if table is None:
                return None
            parts.append(table)
        parts += [offset.to_bytes(4, "little") for offset in offsets]
        return b"".join([*parts, content])

    def _offsets(self, budget: int) -> tuple[int, int, int] | None:
        """The last three offsets: from the last block with sequences if that will do, or from all held."""
        first: _Offsets = (None, None, None) if self._forgot else (1, 4, 8)
        recent = list(self._recent)
        for blocks, before in (recent[-1:], (None, None, None)), (recent, first):
            if sum(block.number for block in blocks) > budget:
                return None
            one, two, three = _follow_all(blocks, before)
            if one is not None and two is not None and three is not None:
                return one, two, three
        return None


def _follow_all(blocks: Iterable[_Sequences], offsets: _Offsets) -> _Offsets:
    for number, block, sources in blocks:
        tables = [_table(sources, which)[0] for which in range(3)]
        offsets = _follow(block.stream, number, tables, offsets)
    return offsets


def _sequence_count(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 128:
        return first, at + 1
    if first < 255:
        return (first - 128 << 8) + data[at + 1], at + 2
    return data[at + 1] + (data[at + 2] << 8) + 0x7F00, at + 3


def _follow(stream: bytes, count: int, tables: Sequence[_Table], before: _Offsets) -> _Offsets:
    """Decode *count* sequences' offset codes; the stream is read from its end."""
    literal_table, offset_table, match_table = (table.states for table in tables)
    literal_bits, match_bits, from_bytes = _LITERAL_BITS, _MATCH_BITS, int.from_bytes
    one, two, three = before
    position = len(stream) * 8 - 9 + stream[-1].bit_length()  # below the highest bit, which marks the end

    def take(bits: int) -> int:
        nonlocal position
        position -= bits
        if position < 0:
            raise ValueError("the sequences are cut short")
        at = position >> 3
        return from_bytes(stream[at : at + 8], "little") >> (position & 7) & (1 << bits) - 1

    literal_state, offset_state, match_state = (take(table.accuracy) for table in tables)
    for left in range(count - 1, -1, -1):
        literal_code, literal_next, literal_base = literal_table[literal_state]
        code, offset_next, offset_base = offset_table[offset_state]
        match_code, match_next, match_base = match_table[match_state]
        if code > 1:
            one, two, three = (1 << code) + take(code) - 3, one, two
        else:
            # One of the last three; without literals before it the next one, or the first less one.
            number = code + (take(code) if code else 0) + (literal_code == 0)
            if number == 1:
                one, two = two, one
            elif number == 2:
                one, two, three = three, one, two
            elif number == 3:
                one, two, three = (None if one is None else one - 1), one, two
        position -= match_bits[match_code] + literal_bits[literal_code]
        if left:
            literal_state = literal_base + take(literal_next)
            match_state = match_base + take(match_next)
            offset_state = offset_base + take(offset_next)
    if position:
        raise ValueError("the sequences do not end where their stream does")
    return one, two, three
