"""Write src/winlayers/win32/_upcase.py from the $UpCase file of a fresh NTFS volume.

    mkntfs -F -q volume.img            (a file of 10 MiB or more)
    ntfscat -f volume.img '$UpCase' > upcase.bin
    python tools/make_upcase.py upcase.bin

The table is a fact of the format (65,536 little-endian 16-bit units); it is kept as the ranges in which it
differs from the identity.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from pathlib import Path

UNITS = 0x10000
TARGET = Path(__file__).resolve().parent.parent / "src" / "winlayers" / "win32" / "_upcase.py"

HEADER = '''\
"""NTFS's ``$UpCase`` table as ranges; written by ``tools/make_upcase.py``, not by hand.

Each range is (first, last, step, delta): the code units first, first + step, ... last become themselves plus
delta; every other unit is its own upper case.  The table is the one that ``mkntfs`` (ntfs-3g) writes to a new
volume: that of Windows 6.1.
"""

from __future__ import annotations

SHA256 = "{digest}"
"""Digest of the whole table as 65,536 little-endian units."""

RANGES: tuple[tuple[int, int, int, int], ...] = (
'''


def ranges(table: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """The runs of equal distance between a unit and its upper case, every unit or every second one."""
    found: list[tuple[int, int, int, int]] = []
    for unit, upper in enumerate(table):
        delta = upper - unit
        if delta == 0:
            continue
        if found:
            first, last, step, known = found[-1]
            gap = unit - last
            if delta == known and gap <= 2 and (first == last or gap == step):
                found[-1] = (first, unit, gap, delta)
                continue
        found.append((unit, unit, 1, delta))
    return found


def main() -> None:
    data = Path(sys.argv[1]).read_bytes()
    if len(data) != 2 * UNITS:
        sys.exit(f"{sys.argv[1]} has {len(data)} bytes, not {2 * UNITS}")
    lines = [HEADER.format(digest=hashlib.sha256(data).hexdigest())]
    for first, last, step, delta in ranges(struct.unpack(f"<{UNITS}H", data)):
        lines.append(f"    (0x{first:04X}, 0x{last:04X}, {step}, {delta}),\n")
    lines.append(")\n")
    TARGET.write_text("".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()
