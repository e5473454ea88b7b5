"""The story of a correlation id as a page: a picture, and below it the lines. Pure.

One file that asks nobody for anything: no scripts, no fonts, no addresses. What messages say was
written by others and is escaped everywhere; a policy of the page forbids the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.subjects import Verdict

from .timeline import Line
from .timeline_picture import MOST, Picture, length, moment, safe

_PICTURE = Path(__file__).parent / "console" / "static" / "timeline.css"
_STYLE = """
:root { color-scheme: light dark;
  --page: #fff; --ink: #1b2026; --muted: #667080; --line: #dde1e7;
  --allow: #17784a; --deny: #c2342a; --hold: #a87400; --duplicate: #8b95a3; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171c; --ink: #e5e9ef; --muted: #98a2b0; --line: #2d343d;
  --allow: #4fc58d; --deny: #ff7d73; --hold: #e3ad43; --duplicate: #7e8896; } }
* { box-sizing: border-box; }
body { margin: 2.5rem auto; padding: 0 1.5rem; max-width: 96rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .3rem 0 1.2rem; color: var(--muted); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: 13px; color: var(--muted); font-weight: 600; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number { text-align: right; color: var(--muted); white-space: nowrap; }
td.text { width: 100%; overflow-wrap: anywhere; }
td.verdict { font-weight: 600; } td.allow { color: var(--allow); } td.hold { color: var(--hold); }
td.deny, td.reject { color: var(--deny); } td.duplicate { color: var(--duplicate); }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 11px; }
  tr { break-inside: avoid; } }
@page { size: landscape; }
"""


def page(lines: Sequence[Line], correlation: str) -> str:
    """The page of a story.

    Args:
        lines: at least one, in order; the picture is of the first 2,000.
        correlation: whose story it is.
    """
    begin = parse_rfc3339(lines[0].time)
    took = parse_rfc3339(lines[-1].time) - begin
    counts = Counter(line.verdict for line in lines)
    told = ", ".join(f"{count:,} {safe(word)}" for word, count in counts.most_common())
    picture = Picture(lines[:MOST])
    more = f"The picture shows the first {MOST:,} of them." if len(lines) > MOST else ""
    rows = "\n".join(_row(line, parse_rfc3339(line.time) - begin) for line in lines)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{safe(correlation)}</title>
<style>{_STYLE}{_PICTURE.read_text("utf-8")}</style>
</head>
<body>
<h1>{safe(correlation)}</h1>
<p>{safe(lines[0].time[:19].replace("T", " "))} UTC, {length(took)}. \
{len(lines):,} records: {told}. {more}</p>
<div class="picture">
{picture.names}
<div class="scroll">
{picture.drawing}
</div>
</div>
{LEGEND}
<table>
<thead><tr><th>record</th><th>after</th><th>verdict</th><th>kind</th><th>what</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def _row(line: Line, after: int) -> str:
    verdict = safe(line.verdict)
    return (
        f'<tr id="r{line.seq}"><td class="number">{line.seq}</td>'
        f'<td class="number">{moment(after)}</td><td class="verdict {verdict}">{verdict}</td>'
        f'<td>{safe(line.kind)}</td><td class="text">{safe(line.text)}</td></tr>'
    )


def _key(shape: str, classes: str, words: str) -> str:
    inside = f'<g class="{classes}">{shape}</g>'
    return f'<span><svg width="16" height="14" viewBox="0 0 16 14">{inside}</svg>{words}</span>'


_CIRCLE = '<circle cx="8" cy="7" r="4.5"/>'
_SQUARE = '<rect x="4" y="3" width="8" height="8" rx="1"/>'
LEGEND = "\n".join(
    (
        '<div class="legend">',
        _key(_CIRCLE, "mark allow", "event or result"),
        _key(_SQUARE, "mark allow", "task"),
        _key(_SQUARE, "mark allow open", "task without an answer"),
        _key('<path d="M8 1.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>', "mark allow", "command"),
        _key('<path d="M3.5 2.5l9 9m0 -9l-9 9"/>', f"mark {Verdict.DENY}", "not delivered"),
        _key(_CIRCLE, f"mark {Verdict.HOLD}", "waits"),
        _key(_CIRCLE, f"mark {Verdict.DUPLICATE}", "came again"),
        _key('<rect x="1" y="3" width="14" height="8" rx="3"/>', "bar allow", "work on a task"),
        _key('<rect x="1" y="3" width="14" height="8" rx="3"/>', "bar gave-up", "given up"),
        "</div>",
    )
)
