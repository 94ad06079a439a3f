"""Tables as pandas draws them, with a caption and without an index column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML


def table(
    rows: Sequence[Mapping[str, Any]] | pd.DataFrame, *, caption: str, formats: Mapping[str, str] | None = None
) -> HTML:
    """Rows (one mapping a row, keys are the column names) as a table for the page.

    Args:
        caption: a sentence above the table.
        formats: column -> format string, such as ``{"error": "{:.1e}"}``.
    """
    styler = pd.DataFrame(rows).style.hide(axis="index").set_caption(caption)
    styler = styler.format(dict(formats or {}), na_rep="–").set_table_attributes('class="course-table"')
    styler.set_uuid("table-" + "".join(c for c in caption.lower() if c.isalnum())[:24])  # the same id in every run
    return _Table(styler.to_html(), f"{caption}\n{styler.to_string(delimiter='  ')}")


class _Table(HTML):
    """HTML whose plain-text form is the same table, for terminals and for tests."""

    def __init__(self, data: str, text: str) -> None:
        super().__init__(data)
        self._text = text

    def __repr__(self) -> str:
        return self._text
