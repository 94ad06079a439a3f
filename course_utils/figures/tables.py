"""Tables as pandas draws them, with a caption, aligned and without an index column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler


def table(
    rows: Sequence[Mapping[str, Any]] | pd.DataFrame, *, caption: str, formats: Mapping[str, str] | None = None
) -> Styler:
    """Rows (one mapping a row, keys are the column names) as a table for the page.

    Args:
        caption: a sentence above the table.
        formats: column -> format string, such as ``{"error": "{:.1e}"}``.
    """
    frame = pd.DataFrame(rows)
    styler = frame.style.hide(axis="index").set_caption(caption).format(formats or {}, na_rep="–")
    styler.set_uuid("table-" + "".join(c for c in caption.lower() if c.isalnum())[:24])  # the same id in every run
    return styler.set_table_attributes('class="course-table"')
