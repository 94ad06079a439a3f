"""Fixtures for all tests."""

from left_behind import nothing_left

__all__ = ["nothing_left"]
