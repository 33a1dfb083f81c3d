"""The status as one static HTML file: no script, no other file, readable on paper.

Everything that came from a device is escaped; the page loads nothing.
"""

from __future__ import annotations

from html import escape
from typing import Any

from taproot.trust.inspection import day

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;
color:#1c2733;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p.sub{margin:.2rem 0 1.5rem;color:#5b6b7b}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.45rem .6rem;border-bottom:1px solid #dfe5ea;vertical-align:top}
th{font-weight:600;color:#5b6b7b;font-size:.85rem}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th.n{text-align:right}
.bar{display:block;height:6px;border-radius:3px;background:#e7ecf0;margin-top:.3rem;min-width:5rem}
.bar i{display:block;height:6px;border-radius:3px;background:#2f7d4f}
.bad .bar i{background:#c0392b}.use .bar i{background:#3a6ea5}
code{font-size:.85em;color:#5b6b7b}
details{max-width:100%}summary{cursor:pointer}
.ids{color:#5b6b7b;font-size:.85rem;overflow-wrap:anywhere}
.cards{display:flex;gap:1rem;flex-wrap:wrap}
.card{border:1px solid #dfe5ea;border-radius:8px;padding:.7rem 1rem;min-width:8rem}
.card b{display:block;font-size:1.4rem}.card.alert b{color:#c0392b}
@media (prefers-color-scheme:dark){body{background:#12181e;color:#dfe7ee}
th,p.sub,code,.ids{color:#93a3b1}th,td,.card{border-color:#2b3742}.bar{background:#2b3742}}
"""
_CAPTION = {
    "carried": "in the bundle in use",
    "proven": "a probe or connection succeeded",
    "in_use": "anchored the last full handshake",
    "stranded": "would not connect if the hub switched to it now",
}


def page(summary: dict[str, Any], findings: list[str] | None = None) -> str:
    """Return the page of a summary."""
    total = summary["devices"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Trust status of {escape(summary['fleet'])}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>Trust status of {escape(summary['fleet'])}</h1>",
        f'<p class="sub">{total} devices, {day(summary["at"])}</p>',
        '<div class="cards">',
        *(_card(state, ids) for state, ids in summary["states"].items()),
        _card(
            f"silent for {summary['silent_days']} days", summary["silent"], bool(summary["silent"])
        ),
        "</div>",
    ]
    if findings:
        parts.append("<h2>Findings</h2><ul>")
        parts += [f"<li>{escape(text)}</li>" for text in findings]
        parts.append("</ul>")
    parts.append("<h2>Roots</h2>" + _roots(summary["roots"], total))
    parts.append("<h2>Bundle versions</h2>" + _versions(summary["versions"], total))
    if summary["errors"]:
        parts.append("<h2>Refused or failed</h2>" + _errors(summary["errors"]))
    parts.append(f"<h2>Silent devices</h2>{_ids(summary['silent'])}")
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _card(title: str, ids: list[str], alert: bool = False) -> str:
    alert = alert or title in ("reverted", "recovery", "no report", "unmanaged")
    kind = "card alert" if alert else "card"
    return f'<div class="{kind}"><b>{len(ids)}</b>{escape(title)}</div>'


def _roots(roots: list[dict[str, Any]], total: int) -> str:
    head = "".join(
        f'<th class="n" title="{escape(said)}">{name.replace("_", " ")}</th>'
        for name, said in _CAPTION.items()
    )
    rows = [f"<table><thead><tr><th>root</th>{head}</tr></thead><tbody>"]
    for root in roots:
        name = escape(root["name"] or "not on the operator's list")
        cells = "".join(_cell(root[what], total, what) for what in _CAPTION)
        ids = "".join(
            f"<div>{what.replace('_', ' ')}: {escape(', '.join(root[what]))}</div>"
            for what in (*_CAPTION, "failed_probes")
            if root[what]
        )
        rows.append(
            f"<tr><td>{name}<br><code>{escape(root['sha256'][:16])}</code>"
            '<details><summary class="ids">devices</summary>'
            f'<div class="ids">{ids}</div></details></td>{cells}</tr>'
        )
    return "\n".join([*rows, "</tbody></table>"])


def _cell(ids: list[str], total: int, what: str) -> str:
    share = round(100 * len(ids) / total) if total else 0
    kind = {"stranded": "bad", "in_use": "use"}.get(what, "")
    return (
        f'<td class="n {kind}">{len(ids)} of {total}'
        f'<span class="bar"><i style="width:{share}%"></i></span></td>'
    )


def _versions(versions: dict[str, list[str]], total: int) -> str:
    rows = [
        '<table><thead><tr><th>version</th><th class="n">devices</th><th>ids</th></tr></thead>'
    ]
    for version, ids in versions.items():
        rows.append(
            f"<tr><td>{escape(version)}</td>{_cell(ids, total, '')}<td>{_ids(ids)}</td></tr>"
        )
    return "\n".join([*rows, "</table>"])


def _errors(errors: list[dict[str, Any]]) -> str:
    rows = [
        "<table><thead><tr><th>device</th><th>version</th><th>code</th><th>reason</th></tr></thead>"
    ]
    for error in errors:
        cells = (error["id"], error.get("version") or "", error["code"], error["text"])
        rows.append("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in cells) + "</tr>")
    return "\n".join([*rows, "</table>"])


def _ids(ids: list[str]) -> str:
    if not ids:
        return '<p class="ids">none</p>'
    listed = escape(", ".join(ids))
    if len(ids) <= 12:
        return f'<div class="ids">{listed}</div>'
    return (
        f'<details><summary class="ids">{len(ids)} devices</summary>'
        f'<div class="ids">{listed}</div></details>'
    )
