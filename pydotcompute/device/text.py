"""Sizes, tables and remedies for people."""

from __future__ import annotations

import re
from collections.abc import Mapping


def human_size(nbytes: int) -> str:
    """``"3.9 KiB"``"""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(max(nbytes.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{nbytes / 1024**power:.1f} {units[power]}" if power else f"{nbytes} B"


def for_a_terminal(text: str) -> str:
    """Without what concerns notebooks alone: a remedy says there that their kernel is to be restarted."""
    return re.sub(r"(?:, and|;) restart the notebook's kernel(?: afterwards)?", "", text)


def html_table(label: str, rows: Mapping[str, str], *, caption: bool = False) -> str:
    """Names and values, one pair a row, in the colours of the notebook; `label` is for screen readers, unless shown."""
    from html import escape  # only where somebody looks

    cells = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    title = f'<caption style="text-align:left;font-weight:bold">{escape(label)}</caption>' if caption else ""
    return f'<table aria-label="{escape(label)}">{title}<tbody>{cells}</tbody></table>'
