"""`report.html`: everything about a run in one file that needs no network."""

import base64
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.report import curves as curve_plots
from kdiff_jax.report.summary import table

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #f3f4f6;
  --line: #d5d9de; --student: #2a7de1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171a;
  --soft: #1f2428; --line: #394048; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 72rem; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
tr.student td:first-child { box-shadow: inset 3px 0 var(--student); }
figure { margin: 0; }
figcaption { font-size: .9rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
.grid { margin-bottom: 1.2rem; }
img { max-width: 100%; height: auto; border-radius: 4px; }
.curves { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.curves svg { width: 100%; max-width: 30rem; height: auto; display: block; }
pre { background: var(--soft); padding: .8rem; border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem;
  margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def write(
    path: str | os.PathLike,
    *,
    report: Mapping[str, Any],
    grids: Sequence[tuple[str, str | os.PathLike]],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    config: Mapping[str, Any],
) -> None:
    """Writes the page.

    Args:
        path: The .html file.
        report: Content of `report.json`.
        grids: (title, path of a PNG), in the order of the page.
        curves: Lines of `metrics.jsonl` by stage, as `metrics_log.read` gives them.
        config: Content of `config.json`; its "command" is shown at the top.
    """
    # Values that JSON cannot hold (paths, NaN) look as they do in config.json.
    config = json.loads(json_text(config))
    parts = [
        f"<h1>{escape(str(report['config']))}</h1>",
        _command(config),
        "<h2>Teacher and student</h2>",
        _table(report["rows"]),
        "<h2>Samples</h2>" if grids else "",
        *(_grid(title, png) for title, png in grids),
        "<h2>Training</h2>" if any(map(curve_plots.names, curves.values())) else "",
        *(_stage(stage, lines) for stage, lines in curves.items()),
        "<h2>Measured with</h2>",
        _facts({**report.get("hardware", {}), **report.get("versions", {})}),
        "<h2>Config</h2>",
        "<details><summary>config.json</summary>",
        f"<pre>{escape(json.dumps(config, indent=2))}</pre></details>",
    ]
    title = escape(str(report["config"]))
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )
    write_atomically(path, page)


def _command(config):
    command = config.get("command")
    if command is None:
        return ""
    text = command if isinstance(command, str) else " ".join(map(str, command))
    return f"<pre>{escape(text)}</pre>"


def _table(rows):
    head, *body = table(rows)
    first_number = head.index("nfe")

    def line(cells, tag):
        kinds = ' class="text"', ""
        return "".join(
            f"<{tag}{kinds[i >= first_number]}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )

    lines = [
        f'<tr class="{escape(row["role"])}">{line(cells, "td")}</tr>'
        for row, cells in zip(rows, body, strict=True)
    ]
    return (
        f'<div class="scroll"><table><thead><tr>{line(head, "th")}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _grid(title, png):
    data = base64.b64encode(pathlib.Path(png).read_bytes()).decode()
    title = escape(title)
    return (
        f'<figure class="grid"><figcaption>{title}</figcaption>'
        f'<img alt="{title}" src="data:image/png;base64,{data}"></figure>'
    )


def _stage(stage, lines):
    plots = [
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f"{curve_plots.svg(lines, name, salt=f'{stage} {name}')}</figure>"
        for name in curve_plots.names(lines)
    ]
    if not plots:
        return ""
    return f'<h3>{escape(stage)}</h3><div class="curves">{"".join(plots)}</div>'


def _facts(facts):
    items = (
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
    )
    return f"<dl>{''.join(items)}</dl>"
