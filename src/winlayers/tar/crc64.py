"""CRC-64 with the ISO 3309 polynomial, as Go's ``hash/crc64`` computes it (catalogued as CRC-64/GO-ISO).

Polynomial x^64 + x^4 + x^3 + x + 1, bits reflected; the register starts and ends inverted; the check value of
``123456789`` is ``b90956c775a41001``.  tar-split stores it big endian.

Where the ``fastcrc`` package is installed it does the work (some 25 GB/s).  Without it, big integers do, at
some 200 MB/s (a table in plain Python: 10).  A message is a polynomial over GF(2).  Modulo the polynomial,
x^64 = x^4 + x^3 + x + 1, and squaring that n times gives x^(64s) = x^(4s) + x^(3s) + x^s + 1 for s = 2^n.  So
what stands more than 64s bits before a message's end can be folded onto the rest with three shifts; each fold
halves the message.
"""

from __future__ import annotations

import functools
from typing import Protocol

Data = bytes | bytearray | memoryview

_MASK = (1 << 64) - 1
_POLYNOMIAL = 0xD800000000000000  # reflected: bit 63 stands for x^0
_ONE = 1 << 63
_PIECE = 1 << 16  # stays in the processor's cache while it is folded
_SHORT = 48  # up to here the table is faster than folding
_ZEROS = bytes(1 << 12)


class _Function(Protocol):
    def __call__(self, data: Data, initial: int | None = None, /) -> int: ...


def _load() -> _Function | None:
    try:
        from fastcrc.crc64 import go_iso
    except ImportError:
        return None
    function: _Function = go_iso
    return function


_fast = _load()


def crc64(data: Data, crc: int = 0) -> int:
    """The CRC of what *crc* is the CRC of (nothing, if 0), followed by *data*."""
    return crc64_pure(data, crc) if _fast is None else _fast(data, crc)


def crc64_pure(data: Data, crc: int = 0) -> int:
    """:func:`crc64` without the help of a library."""
    register = crc ^ _MASK
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        if len(piece) > _SHORT:
            register = _fold(piece, register)
        else:
            for byte in piece:
                register = _TABLE[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ _MASK


def crc64_zeros(count: int, crc: int = 0) -> int:
    """The CRC of what *crc* is the CRC of, followed by *count* zero bytes, in time that grows with log
    *count*.

    Holes of sparse files may be exabytes: nothing may depend on running through them.
    """
    if count <= len(_ZEROS):
        return crc64(_ZEROS[:count], crc)
    register = crc ^ _MASK
    shift = 0
    while count >> shift:
        digit = count >> shift & 0xFF
        if digit:
            register = _multiply(register, _power(digit, shift))
        shift += 8
    return register ^ _MASK


@functools.cache  # some 2,000 values at most; a sparse map may have tens of thousands of holes
def _power(digit: int, shift: int) -> int:
    """What ``digit << shift`` zero bytes multiply the register by: x^8 for each."""
    product, power = _ONE, _ONE >> 8
    exponent = digit << shift
    while exponent:
        if exponent & 1:
            product = _multiply(product, power)
        power = _multiply(power, power)
        exponent >>= 1
    return product


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(_table_entry(value) for value in range(256))


def _multiply(left: int, right: int) -> int:
    """The product of two reflected polynomials modulo the CRC's."""
    product = 0
    while right:
        if right & _ONE:
            product ^= left
        right = right << 1 & _MASK
        left = left >> 1 ^ (_POLYNOMIAL if left & 1 else 0)
    return product


def _fold(data: memoryview, register: int) -> int:
    """The register after *data* (at least 8 bytes).  Bit i of a message of n bits stands for x^(n-1-i)."""
    message = int.from_bytes(data, "little") ^ register
    bits = len(data) * 8 + 64  # the register is the remainder of the message times x^64
    scale = 1 << (bits // 64).bit_length() - 1
    while scale:
        kept = 64 * scale
        while bits > kept:
            head_bits = bits - kept
            new_bits = max(kept, head_bits + 4 * scale)
            head = (message & (1 << head_bits) - 1) << new_bits - head_bits
            message = message >> head_bits << new_bits - kept
            message ^= head ^ head >> scale ^ head >> 3 * scale ^ head >> 4 * scale
            bits = new_bits
        scale >>= 1
    return message
