"""Hybrid parallelism: data, pipeline and tensor parallelism at once, over a mesh of ranks."""

from course_utils.hybrid.hybrid import HybridParallel, average_gradients
from course_utils.hybrid.mesh import Mesh

__all__ = ["HybridParallel", "Mesh", "average_gradients"]
