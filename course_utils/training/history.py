"""What a run leaves behind: the numbers of one step, of one evaluation, and of the whole run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step saw: mean loss over its samples, the true gradient's norm, scale used, skipped or not."""

    loss: float
    grad_norm: float
    scale: float
    skipped: bool


@dataclass(frozen=True)
class Metrics:
    """Means over ``samples`` samples: the loss, and the share of correct answers (0 to 1)."""

    loss: float
    accuracy: float
    samples: int


@dataclass
class History:
    """One entry for each optimizer step, ready to plot: ``ax.plot(history.step, history.loss)``.

    ``seconds`` count from the start of ``train``, without the time spent in validation. ``validated_step``,
    ``validation_loss`` and ``validation_accuracy`` have one entry for each validation.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validated_step: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
