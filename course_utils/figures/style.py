"""Matplotlib figures as inline SVG whose ink is the page's text colour, so that they are readable in light and dark."""

from __future__ import annotations

import hashlib
import html
import io
import re
from typing import Any

import matplotlib as mpl
import matplotlib.style
from cycler import cycler
from IPython.display import HTML
from matplotlib.figure import Figure

# The colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), without black and yellow: they vanish on one page.
PALETTE: dict[str, str] = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "grey": "#888888",
}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and set in the page's own font
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.prop_cycle": cycler(color=[c for n, c in PALETTE.items() if n != "grey"]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["grey"],
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.facecolor": "none",
    "lines.linewidth": 2.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def subplots(
    rows: int = 1, columns: int = 1, *, width: float = 7.2, height: float = 3.2, **kwargs: Any
) -> tuple[Figure, Any]:
    """A figure in the style of the book and its axes, like ``plt.subplots``; width and height in inches.

    The style stays in force afterwards, for what is drawn into the axes. The figure is not registered with pyplot, so
    it is never drawn twice and needs no closing.
    """
    matplotlib.style.use(_STYLE)
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, **kwargs)


def show(fig: Figure, *, alt: str) -> HTML:
    """The figure as inline SVG.

    Args:
        alt: read aloud to those who do not see the figure: say what it shows, not what it is.

    Raises:
        ValueError: when ``alt`` is empty.
    """
    if not alt.strip():
        raise ValueError("show(fig, alt=...) needs a sentence that says what the figure shows")
    buffer = io.StringIO()
    # The salt makes ids (clip paths, markers) differ from figure to figure on a page, and equal from run to run.
    with mpl.rc_context({"svg.hashsalt": hashlib.sha256(alt.encode()).hexdigest()[:12]}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.S)
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None  # matplotlib always states it
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    # Black is matplotlib's ink, written out for strokes and left to the default for fills. Both become the page's text.
    attributes = (
        f'role="img" aria-label="{html.escape(alt, quote=True)}" fill="currentColor" '
        f'style="width:100%;max-width:{width[1]}pt;height:auto"'
    )
    svg = svg.replace("#000000", "currentColor").replace("<svg ", f"<svg {attributes} ", 1)
    return _Figure(f'<figure class="course-figure" style="margin:0.5rem 0">{svg}</figure>', alt)


class _Figure(HTML):
    """HTML whose plain-text form is the alternative text, for terminals and for tests."""

    def __init__(self, data: str, alt: str) -> None:
        super().__init__(data)
        self._alt = alt

    def __repr__(self) -> str:
        return f"Figure: {self._alt}"
