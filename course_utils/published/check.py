"""A published number beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One number.

    Args:
        what: of which model or run, and what.
        source: where it is printed.
        published, ours: the number there, and what the course works out.
        unit: of both.
        within: the largest relative difference that rounding, or a stated simplification, explains.
        closes: whether it is expected to agree. Where it does not, ``remark`` says why.
        remark: what has to be known to read it.
    """

    what: str
    source: str
    published: float
    ours: float
    unit: str = ""
    within: float = 0.005
    closes: bool = True
    remark: str = ""

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.published

    @property
    def agrees(self) -> bool:
        """Whether both are within what is explained."""
        return abs(self.ratio - 1) <= self.within
