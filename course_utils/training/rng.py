"""The states of all random generators a run draws from, taken and put back."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """The states of the random generators of Python, NumPy and torch (CUDA: one for each device)."""
    generator = np.random.get_state(legacy=False)  # noqa: NPY002 - libraries under us draw from the global generator
    assert isinstance(generator, dict)
    generator["state"] = {"key": generator["state"]["key"].tolist(), "pos": int(generator["state"]["pos"])}
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": generator, "torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the generators back to what :func:`rng_state` returned."""
    random.setstate(state["python"])
    generator = dict(state["numpy"])
    generator["state"] = {**generator["state"], "key": np.array(generator["state"]["key"], np.uint32)}
    np.random.set_state(generator)  # noqa: NPY002 - see rng_state
    torch.set_rng_state(state["torch"])
    devices = torch.cuda.device_count()
    if len(state["cuda"]) == devices:
        torch.cuda.set_rng_state_all(state["cuda"])
    else:
        warnings.warn(
            f"the random state of {len(state['cuda'])} CUDA devices was saved but there are {devices} here: "
            "the run goes on, but not bit for bit",
            stacklevel=2,
        )
