"""A timeline of a bundle as SVG: until when each root and the bundle itself hold.

The same document and the same day give the same picture.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import Any

from taproot.console import UsageFailed
from taproot.trust.inspection import day

_LEFT, _WIDTH, _ROW, _TOP = 300, 620, 26, 40
_COLOURS = {"active": "#2f7d4f", "standby": "#3a6ea5", "retired": "#9a9a9a", "bundle": "#b8860b"}


def svg(found: dict[str, Any], at: int) -> str:
    """Return the picture of a described document."""
    bundle = found["bundle"]
    roots = found.get("roots") or (bundle["roots"] if bundle else [])
    if not roots:
        raise UsageFailed("a timeline needs a document with roots: a package or a bundle")
    bars = [
        (
            str(root.get("note") or root["subject"]),
            root["not_before"],
            root["not_after"],
            str(root.get("state", "active")),
        )
        for root in roots
    ]
    if bundle:
        name = f"bundle {bundle['version']} of {bundle['fleet']}"
        bars.append((name, bundle["issued"], bundle["expires"], "bundle"))
    start, end = _span(bars, at)
    height = _TOP + _ROW * len(bars) + 30

    def x(unix: int) -> float:
        return round(_LEFT + _WIDTH * (min(max(unix, start), end) - start) / (end - start), 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 90} {height}" '
        'font-family="sans-serif" font-size="12" role="img" aria-label="validity of roots">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    first, last = _year(start) + 1, _year(end)
    step = max(1, (last - first) // 8 + 1)
    for year in range(first, last + 1, step):
        at_x = x(int(datetime(year, 1, 1, tzinfo=UTC).timestamp()))
        lines.append(
            f'<line x1="{at_x}" y1="{_TOP - 12}" x2="{at_x}" y2="{height - 24}" stroke="#e0e0e0"/>'
            f'<text x="{at_x}" y="{_TOP - 18}" text-anchor="middle" fill="#666666">{year}</text>'
        )
    for i, (name, begin, finish, state) in enumerate(bars):
        y = _TOP + i * _ROW
        shown = name if len(name) <= 42 else name[:41] + "…"
        lines.append(
            f'<text x="{_LEFT - 10}" y="{y + 13}" text-anchor="end">{escape(shown)}</text>'
            f'<rect x="{x(begin)}" y="{y}" width="{round(max(x(finish) - x(begin), 1), 1)}" '
            f'height="16" rx="3" fill="{_COLOURS.get(state, "#555555")}">'
            f"<title>{escape(name)}: {day(begin)} to {day(finish)}</title></rect>"
            f'<text x="{x(finish) + 6}" y="{y + 13}" fill="#444444">{day(finish)}</text>'
        )
    lines.append(
        f'<line x1="{x(at)}" y1="{_TOP - 12}" x2="{x(at)}" y2="{height - 24}" stroke="#c0392b" '
        f'stroke-width="1.5"/><text x="{x(at)}" y="{height - 8}" text-anchor="middle" '
        f'fill="#c0392b">{day(at)}</text>'
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _span(bars: list[tuple[str, int, int, str]], at: int) -> tuple[int, int]:
    start = min(at, *(b[1] for b in bars)) if len(bars) > 1 else min(at, bars[0][1])
    end = max(at, *(b[2] for b in bars)) if len(bars) > 1 else max(at, bars[0][2])
    start = max(start, at - 3 * 365 * 86400)
    return start, max(end, start + 86400)


def _year(unix: int) -> int:
    return datetime.fromtimestamp(unix, UTC).year
