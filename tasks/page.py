"""A page for people: Markdown with tables and pictures, as one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1c2430}h1,h2{line-height:1.2}h2{margin-top:2.2rem;border-bottom:1px solid #d5dae1;
padding-bottom:.3rem}table{border-collapse:collapse;font-size:.9rem;display:block;overflow-x:auto}
th,td{border:1px solid #d5dae1;padding:.3rem .6rem;text-align:left}th{background:#f2f5f9}
tr:nth-child(even) td{background:#fafbfc}img{max-width:100%}code{background:#f2f5f9;
padding:0 .2rem}@media(prefers-color-scheme:dark){body{background:#14181f;color:#dfe5ee}
th,td{border-color:#39424f}th,code,tr:nth-child(even) td{background:#1e2530}a{color:#7fb2f0}}
"""


def html_page(title: str, content: str) -> str:
    """A whole HTML document around ``content``."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{content}</body></html>\n"
    )


def from_markdown(body: str) -> str:
    """Markdown, tables included, as HTML."""
    from markdown import markdown

    return markdown(body, extensions=["tables"])


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown; a bar or a line break in a cell does not break it."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
