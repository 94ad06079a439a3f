"""course_utils: what the chapters of *Training Large Models, a course that runs* import.

Imports run one way (see CONTRIBUTING.md)::

    estimate, precision, models, data  <-  distributed, tuning  <-  training  <-  news, vision  <-  exercises, figures
"""
