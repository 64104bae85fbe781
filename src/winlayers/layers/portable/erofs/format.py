"""The parts of the EROFS on-disk format that images of views use.

All numbers are little endian.  An inode is named by its *nid*, its offset in the image divided by 32.
Sources: Linux ``fs/erofs/erofs_fs.h``, ``data.c``, ``xattr.c`` and ``super.c``, and erofs-utils ``lib/``.

Features used, and the kernels that know them: chunk-based inodes (5.15), device table (5.16), blocks smaller
than a page (6.4), a filter for attribute names (6.6; ignored by older ones), images in plain files (6.12).
"""

from __future__ import annotations

import struct

BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS
"""Tar pads members to this size, so every member's data starts and ends on a block."""

SUPER_OFFSET = 1024
SUPER_MAGIC = 0xE0F5E1E2
COMPAT_CHECKSUM = 0x1
COMPAT_MTIME = 0x2
COMPAT_XATTR_FILTER = 0x4
INCOMPAT_CHUNKED_FILE = 0x4
INCOMPAT_DEVICE_TABLE = 0x8

# magic, checksum, compat, block bits, ext slots, root nid, inodes, epoch, fixed nsec, blocks,
# metadata start, shared attributes start, uuid, name, incompat, -, devices, device slot, directory bits,
# prefixes, prefix start, packed nid, filter seed, -
SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23s")

DEVICE_SLOT = struct.Struct("<64sIIHH52s")
"""tag, blocks (low), unified address (low), and their high halves."""

SLOT_BITS = 5
LAYOUT_PLAIN = 0
LAYOUT_INLINE = 2
LAYOUT_CHUNKED = 4
FORMAT_EXTENDED_PLAIN = 1 | LAYOUT_PLAIN << 1
FORMAT_EXTENDED_INLINE = 1 | LAYOUT_INLINE << 1
FORMAT_EXTENDED_CHUNKED = 1 | LAYOUT_CHUNKED << 1

INODE = struct.Struct("<HHHHQIIIIqII16x")
"""format, attribute words, mode, -, size, layout's word, number, uid, gid, mtime, nanoseconds, links."""
INODE_SIZE = INODE.size
INODE_SIZE_AT = 8
"""Where the size and the layout's word lie in an inode (`SIZE_AND_START`)."""
INODE_LINKS_AT = 44
SIZE_AND_START = struct.Struct("<QI")
U32 = struct.Struct("<I")

CHUNK_INDEXES = 0x20
MAX_CHUNK_BITS = 30
"""Chunks of up to 1 GiB, so that a file is one chunk, or few, also where ``long`` has 32 bits."""
CHUNK_INDEX = struct.Struct("<HHI")
"""start block (high), device, start block (low)."""
CHUNK_HOLE = 0xFFFFFFFF
MAX_DEVICE_BLOCKS = 0xFFFFFFFF

XATTR_HEADER = struct.Struct("<IB7x")
"""name filter (a set bit: no such name), number of shared attributes; their u32 ids follow, then entries."""
XATTR_ENTRY = struct.Struct("<BBH")
"""name length, name index, value size; then name, value, and zeroes up to a multiple of four."""
XATTR_USER = 1
XATTR_TRUSTED = 4
XATTR_MAX_SHARED = 255
XATTR_FILTER_SEED = 0x25BBE08F

DIRENT_SIZE = 12
"""u64 nid, u16 name offset in the block, u8 type, u8 reserved; the block's names follow its entries."""
TYPE_FILE = 1
TYPE_DIRECTORY = 2
TYPE_SYMLINK = 7

_CRC32C_POLYNOMIAL = 0x82F63B78
_MASK = 0xFFFFFFFF


def crc32c(data: bytes, crc: int = _MASK) -> int:
    """CRC-32C as the kernel computes it: no inversion at the end."""
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C_POLYNOMIAL if crc & 1 else 0)
    return crc


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> 32 - bits) & _MASK


_P1, _P2, _P3, _P4, _P5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393


def xxh32(data: bytes, seed: int) -> int:
    """The 32-bit xxHash of *data* (source: the xxHash specification)."""
    size = len(data)
    position = 0
    if size >= 16:
        lanes = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
        while position + 16 <= size:
            for lane, word in enumerate(struct.unpack_from("<4I", data, position)):
                lanes[lane] = _rotate(lanes[lane] + word * _P2, 13) * _P1 & _MASK
            position += 16
        digest = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        digest = seed + _P5
    digest += size
    while position + 4 <= size:
        digest = _rotate(digest + U32.unpack_from(data, position)[0] * _P3, 17) * _P4
        position += 4
    for byte in data[position:]:
        digest = _rotate(digest + byte * _P5, 11) * _P1
    digest &= _MASK
    digest = (digest ^ digest >> 15) * _P2 & _MASK
    digest = (digest ^ digest >> 13) * _P3 & _MASK
    return digest ^ digest >> 16


def filter_bit(index: int, name: bytes) -> int:
    """The bit that the attribute *name* (without name space) clears in the filter of its inode."""
    return 1 << (xxh32(name, XATTR_FILTER_SEED + index & _MASK) & 31)


def xattr_entry(index: int, name: bytes, value: bytes) -> bytes:
    """One attribute as it lies in an inode or in the shared area."""
    data = XATTR_ENTRY.pack(len(name), index, len(value)) + name + value
    return data + bytes(-len(data) % 4)


def chunk_bits(size: int) -> int:
    """The smallest chunk, as a power of two of blocks, that holds *size* bytes, or the largest allowed."""
    blocks = (size + BLOCK - 1) >> BLOCK_BITS
    return min(max(blocks - 1, 0).bit_length(), MAX_CHUNK_BITS - BLOCK_BITS)
