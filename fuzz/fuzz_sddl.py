"""Fuzz SDDL: only SddlError may come; what parses is valid, prints, and prints the same again."""

from __future__ import annotations

from collections.abc import Iterator

import atheris

with atheris.instrument_imports(include=["winlayers"]):
    from winlayers.errors import SddlError, SecurityDescriptorError
    from winlayers.win32.security import bytes_to_sddl, sddl_to_bytes, validate

from common import fuzz, stream_contents

DOMAIN = "S-1-5-21-1-2-3"
SEEDS = (
    "O:BAG:SYD:PAI(A;OICI;FA;;;SY)(A;OICIIO;GA;;;CO)S:(AU;SAFA;FA;;;WD)",
    "O:LAG:DUD:AR(OA;CI;CR;ab721a53-1e2f-11d0-9819-00aa0040529b;bf967aba-0de6-11d0-a285-00aa003049e2;PS)",
    "D:NO_ACCESS_CONTROLS:AI(ML;;NWNRNX;;;LW)(SP;;;;;S-1-17-1)(TL;;RP;;;S-1-19-512-4096)(FL;TP;FX;;;WD;(a))",
    'D:(XA;;FX;;;WD;(@USER.a == {1, -0x2, "b", #00, SID(BA)} && !(Member_of {SID(BA)}) || Exists @DEVICE.b))',
    'S:(RA;OICI;;;;WD;("a%002c",TS,0x3,"b","c"))(RA;;;;;WD;("d",TX,0x0,00ff))(RA;;;;;WD;("e",TD,0x0,BA))',
)


def seeds() -> Iterator[bytes]:
    """Texts with all that SDDL has, and those of the recorded descriptors."""
    yield from (text.encode() for text in SEEDS)
    for data in stream_contents(3):
        try:
            yield bytes_to_sddl(data).encode()
        except SecurityDescriptorError:
            continue


def test_one(data: bytes) -> None:
    """One input."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        binary = sddl_to_bytes(text, machine_sid=DOMAIN, domain_sid=DOMAIN)
    except SddlError:
        return
    validate(binary)
    try:
        written = bytes_to_sddl(binary, machine_sid=DOMAIN, domain_sid=DOMAIN)
    except SddlError as error:
        if "nested more than" in error.message:
            return  # a long flat chain: it is written nested, and only that is too deep
        raise
    assert sddl_to_bytes(written, machine_sid=DOMAIN, domain_sid=DOMAIN) == binary
    assert bytes_to_sddl(binary, machine_sid=DOMAIN, domain_sid=DOMAIN) == written


if __name__ == "__main__":
    fuzz(test_one, seeds())
