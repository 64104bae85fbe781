"""Hypothesis strategies for Windows data."""

from __future__ import annotations

from hypothesis import strategies as st

from winlayers.win32.metadata import ExtendedAttribute
from winlayers.win32.names import join_surrogates

_CHARACTERS = st.one_of(
    st.characters(codec="ascii"),
    st.characters(exclude_categories=()),
    st.sampled_from("\ud800\udbff\udc00\udfff\u00e4\u00c4\u0131\u017f\u2170\U0001f600%{}/:."),
)

any_text = st.text(_CHARACTERS, max_size=40)
"""Any text, lone surrogates too, and unjoined pairs of them."""

names = st.text(_CHARACTERS, min_size=1, max_size=40)

stream_names = (
    st.text(_CHARACTERS.filter(lambda c: c not in ":/\\\0"), min_size=1, max_size=20)
    .map(join_surrogates)
    .filter(lambda name: name.upper() != "$DATA")
)
"""Bare names of alternate data streams."""

extended_attributes = st.builds(
    ExtendedAttribute,
    name=st.one_of(
        st.text(st.characters(codec="ascii"), max_size=20),
        st.binary(max_size=255).map(lambda data: data.decode("utf-8", "surrogateescape")),
    ),
    value=st.binary(max_size=200),
    flags=st.sampled_from([0, 0x80, 0xFF]),
)
