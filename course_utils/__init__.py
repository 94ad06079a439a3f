"""course_utils: what the chapters of *Training Large Models, a course that runs* import.

A room for each idea; where it has a ``one_page.py``, begin there. Which room may import which stands in pyproject.toml.
"""
