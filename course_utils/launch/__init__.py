"""N processes from a notebook, a test or a script: how they are started, and which of them failed, and why."""

from course_utils.launch.agree import agree
from course_utils.launch.delay import Delay
from course_utils.launch.environment import Process, distributed_from_environment
from course_utils.launch.failures import RankFailed, RankTimeout
from course_utils.launch.launch import launch

__all__ = ["Delay", "Process", "RankFailed", "RankTimeout", "agree", "distributed_from_environment", "launch"]
