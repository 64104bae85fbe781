"""Putting a page together: one file, no other resource, nothing executed but its own script.

Plain functions on strings are all the templating there is: pages are made of tables and figures, everything
goes through :func:`text`, and a template engine would be a dependency for two pages.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
from collections.abc import Iterable, Sequence

from winlayers._version import __version__

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
COLOURS = 10
"""How many colours layers have; the eleventh begins again."""


def text(value: object) -> str:
    """*value* as text for HTML; what can't be shown (control characters, lone surrogates) is escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))
    return html.escape(shown)


def size_text(size: int) -> str:
    """A size as people read it, in powers of 1000."""
    value = float(size)
    for unit in _UNITS:
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable: the last unit takes all")


def size_cell(size: int, *, blank: bool = False) -> str:
    """A table cell with a size, exact when pointed at; *blank*: a dash for nothing."""
    if blank and not size:
        return '<td class="number quiet">–</td>'
    return f'<td class="number" title="{size:,} bytes">{size_text(size)}</td>'


def number_cell(value: int, *, blank: bool = True) -> str:
    """A table cell with a number."""
    return '<td class="number quiet">–</td>' if blank and not value else f'<td class="number">{value:,}</td>'


def percent(part: float, whole: float) -> str:
    """*part* of *whole* in percent; small parts don't vanish."""
    if not whole:
        return "0 %"
    value = 100 * part / whole
    if 0 < value < 0.1:
        return "under 0.1 %"
    return f"{value:.1f} %"


def card(label: str, value: str, note: str = "", *, kind: str = "") -> str:
    """One figure with its meaning."""
    below = f'<p class="note">{note}</p>' if note else ""
    named = f'<p class="label">{text(label)}</p><p class="value">{value}</p>'
    return f'<div class="card {kind}">{named}{below}</div>'


def bar(parts: Sequence[tuple[int, str]], whole: int, label: str) -> str:
    """A bar of *parts* (size, CSS class), as long as they are of *whole*."""
    at = 0.0
    rects = []
    for size, kind in parts:
        width = 100 * size / whole if whole else 0
        if size:
            rects.append(f'<rect class="{kind}" x="{at:.3f}" width="{max(width, 0.35):.3f}" height="10"/>')
        at += width
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img"'
        f' aria-label="{text(label)}">{"".join(rects)}</svg>'
    )


def table(caption: str, header: Sequence[tuple[str, str]], rows: Iterable[str], *, kind: str = "") -> str:
    """A table; *header* has titles and CSS classes, *rows* are ``<tr>`` elements."""
    titles = "".join(f'<th scope="col" class="{css}">{text(title)}</th>' for title, css in header)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table class="{kind}">'
        f'<caption class="unseen">{text(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def section(identifier: str, title: str, lead: str, body: str) -> str:
    """A section with a heading and a sentence on what it shows."""
    return (
        f'<section id="{identifier}" aria-labelledby="{identifier}-title">'
        f'<h2 id="{identifier}-title">{text(title)}</h2><p class="lead">{lead}</p>{body}</section>'
    )


def swatch(number: int) -> str:
    """A layer's number in its colour; *number* from 1."""
    return f'<span class="swatch c{(number - 1) % COLOURS}">{number}</span>'


def treemap(legend: str, switch: str = "") -> str:
    """The place where the script draws the map, with its controls."""
    return (
        f'<div class="maptools"><nav id="crumbs" aria-label="Where the map is"></nav>{switch}</div>'
        '<div class="map"><div id="treemap" role="group" aria-label="Treemap: arrows move, Enter opens, '
        'Escape goes up"></div><div id="side"><p id="about" aria-live="polite"></p>'
        '<ol id="inside" aria-label="What is in it, the largest first"></ol></div></div>'
        f'<div class="legend">{legend}</div>'
        '<noscript><p class="note">The map needs JavaScript; the tables do not.</p></noscript>'
    )


def _asset(name: str) -> str:
    return importlib.resources.files("winlayers.inspection.report").joinpath(name).read_text("utf-8")


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"


def embed(data: object) -> str:
    """*data* as JSON that can stand inside an HTML element."""
    # ASCII only, so lone surrogates survive; no "<", so nothing ends the element or begins a comment.
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def page(title: str, subtitle: str, facts: Sequence[tuple[str, str]], body: str, data: object) -> str:
    """The whole document.

    Args:
        title: what is shown.
        subtitle: HTML below it.
        facts: names and values (HTML) for the head.
        body: the sections' HTML.
        data: given to the script as JSON.
    """
    style, script = _asset("page.css"), _asset("page.js")
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}"
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="winlayers {__version__}">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<button id="theme" type="button" aria-label="Light or dark">◐</button>
<p class="brand">winlayers</p>
<h1>{text(title)}</h1>
<p class="subtitle">{subtitle}</p>
<dl class="facts">{listed}</dl>
</header>
<main>
{body}
</main>
<footer><p>Made by winlayers {__version__}. Sizes are data before compression unless said otherwise;
1 MB is 1,000,000 bytes; point at a size for its bytes.</p></footer>
<script type="application/json" id="data">{embed(data)}</script>
<script>{script}</script>
</body>
</html>
"""
