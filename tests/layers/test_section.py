"""Sections of files against the standard library's files."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winlayers.layers.section import Section

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 30), st.just(0)),
        st.tuples(
            st.just("seek"), st.integers(-5, 60), st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
        ),
    ),
    max_size=20,
)


@given(st.binary(max_size=50), STEPS, st.integers(1, 7))
def test_it_reads_and_seeks_as_a_file_does(
    content: bytes, steps: list[tuple[str, int, int]], most: int
) -> None:
    """Also if what lies below gives less than it was asked for."""
    file = io.BytesIO(content)
    section = io.BufferedReader(
        Section(len(content), lambda at, count: content[at : at + min(count, most)]), 4
    )
    for kind, number, whence in steps:
        if kind == "read":
            assert section.read(number) == file.read(number)
            continue
        if whence == os.SEEK_SET and number < 0:
            continue
        assert section.seek(number, whence) == file.seek(number, whence)


def test_it_ends_where_the_data_does_and_closes_once() -> None:
    closed: list[bool] = []
    section = Section(10, lambda at, count: b"1234"[at : at + count], lambda: closed.append(True))
    with section:
        assert section.readall() == b"1234"
    section.close()
    assert closed == [True]
    with pytest.raises(ValueError):
        section.read(1)
