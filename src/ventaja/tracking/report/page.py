"""The page: its sections, and what it looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ventaja.disk import atomic_file
from ventaja.tracking.folder import RunFolder
from ventaja.tracking.report.curves import curves_section
from ventaja.tracking.report.distance import distance_section
from ventaja.tracking.report.markup import as_value, escaped
from ventaja.tracking.report.rankings import rankings_section
from ventaja.tracking.report.samples import samples_section
from ventaja.tracking.words import counted


def write_report(path: str | Path) -> Path:
    """Writes `report.html` into a run's folder, in place of an earlier one, and returns its path.

    Self-contained: the curves are inline SVG and nothing is fetched. All text from the run is escaped.
    Raises RunError if there is no run in `path`, or the page cannot be written.
    """
    folder = RunFolder.open(path)
    metrics = folder.metrics()
    config = folder.config()
    sections = [
        curves_section(metrics),
        distance_section(metrics, config),
        _last_metrics(metrics),
        rankings_section(folder),
        samples_section(folder),
        _settings(config),
    ]
    facts = [counted(len(metrics), "round"), counted(len(folder.checkpoints()), "checkpoint")]
    if folder.command():
        facts.append(f"<code>{escaped(folder.command())}</code>")
    page = _PAGE.format(
        title=escaped(folder.name), facts=" · ".join(facts), style=_STYLE, body="\n".join(sections)
    )
    with atomic_file(folder.report_path, flag=None) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return folder.report_path


def _last_metrics(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for line in metrics:
        for name, value in line.items():
            first.setdefault(name, value)
            if value is not None:
                last[name] = value
    rows = "".join(
        f"<tr><th>{escaped(name)}</th><td>{as_value(first[name])}</td><td>{as_value(last.get(name))}</td></tr>"
        for name in first
    )
    return (
        "<section><h2>Metrics</h2><table><thead><tr><th></th><th>first</th><th>last</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></section>"
    )


def _settings(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escaped(key)}</th><td>{as_value(value)}</td></tr>" for key, value in _dotted(config)
    )
    return f"<section><h2>Config</h2><table><tbody>{rows}</tbody></table></section>"


def _dotted(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat += _dotted(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin: 0; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem; } h3 { font-size: 1rem; }
small, .facts { color: #666; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .9rem; }
svg { width: 100%; height: auto; } svg text { font-family: system-ui, sans-serif !important; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th { text-align: left; font-weight: 500; } thead th { color: #666; }
th, td { padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid #eee; }
td { text-align: right; overflow-wrap: anywhere; }
article { border: 1px solid #e4e4e4; border-radius: 6px; padding: .75rem 1rem; margin: .75rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .25rem 0; font-size: .85rem; }
.prompt { color: #555; } .prompt + pre { margin-top: .75rem; }
.fault { color: #a33; margin: 0; font-size: .85rem; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="facts">{facts}</p>
{body}
</body>
</html>
"""
