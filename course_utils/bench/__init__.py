"""Benchmarks: two ways to do the same, timed side by side; ``python -m course_utils.bench NAME`` runs one."""
