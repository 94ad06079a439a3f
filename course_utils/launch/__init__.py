"""N processes from a notebook, a test or a script: how they are started, and which of them failed, and why.

::

    caller: launch(fn, 4)             a notebook's kernel or a script; holds the store at which the ranks meet
      └─ fork server                  started once; has imported torch and done nothing else with it
           ├─ rank 0: worker.main     forked from the server in hundredths of a second: joins the group, calls fn
           ├─ rank 1: worker.main
           ├─ rank 2: worker.main     each rank has three pipes to the caller:
           └─ rank 3: worker.main     its status and value, what it prints, and where it stands when it is asked

``launch`` starts the ranks and watches them; ``worker`` is what runs inside a rank, ``worker_process`` the caller's
side of it. ``pickling`` carries the function over. ``failures`` and ``tracebacks`` say which rank failed, and why.
``environment`` is for programs that torchrun or srun starts instead; with ``agree`` all ranks learn of one's error.
"""

from course_utils.launch.agree import agree
from course_utils.launch.delay import Delay
from course_utils.launch.environment import Process, distributed_from_environment
from course_utils.launch.failures import RankFailed, RankTimeout
from course_utils.launch.launch import launch

__all__ = ["Delay", "Process", "RankFailed", "RankTimeout", "agree", "distributed_from_environment", "launch"]
