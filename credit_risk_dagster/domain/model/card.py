"""A document of sections with texts and tables, as Markdown and as HTML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Row = Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of a document: title, paragraphs, and a table whose first row names its columns."""

    title: str
    paragraphs: tuple[str, ...] = ()
    table: tuple[Row, ...] = ()


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The document; nothing of what it says is markup."""
    lines = [f"# {_plain(title)}", ""]
    for section in sections:
        lines += [f"## {_plain(section.title)}", ""]
        for paragraph in section.paragraphs:
            lines += [_plain(paragraph), ""]
        if section.table:
            head, *rows = ([_plain(cell) for cell in row] for row in section.table)
            lines += [_line(head), _line(["---"] * len(head)), *map(_line, rows), ""]
    return "\n".join(lines)


def to_html(title: str, sections: Sequence[Section]) -> str:
    """The document as a page by itself."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f"<p>{_linked(paragraph)}</p>" for paragraph in section.paragraphs]
        if section.table:
            head, *rows = section.table
            parts.append("<table>" + _cells(head, "th") + "".join(_cells(r, "td") for r in rows))
            parts.append("</table>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{border:1px solid #999;padding:.2em .6em;text-align:left}"
)


def _cells(row: Row, kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{_linked(cell)}</{kind}>" for cell in row) + "</tr>"


def _linked(text: str) -> str:
    """Addresses lead somewhere."""
    words = [
        f'<a href="{escape(word)}">{escape(word)}</a>'
        if word.startswith(("http://", "https://"))
        else escape(word)
        for word in text.split(" ")
    ]
    return " ".join(words)


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


# What begins an image, a link, a formula or a cell; a heading, a quotation or a list.
_MARKUP = re.compile(r"[\\`*~\[\]$|]|^[#>+-]|(?<=^\d)[.)]")


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")
