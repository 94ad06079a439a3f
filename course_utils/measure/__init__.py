"""What a run holds, sends and takes.

Two words are kept apart. *Measured* is what a counter saw that knows no formula: the bytes of storages that are alive
(:class:`~course_utils.measure.live.LiveMemory`), that belong to a model (:func:`held`), that autograd keeps
(``Ledger.saved``). *Charged* is what a formula says of calls that were observed: the :class:`Ledger` reads every call
into ``torch.distributed`` and charges it with the bytes that the bandwidth-optimal algorithm sends; :class:`SlowLink`
charges such a call with seconds, and sleeps for them. Which algorithm a backend takes, neither of them sees.
"""

from course_utils.measure.ledger import Held, Ledger, Sent, add_up, held
from course_utils.measure.live import LiveMemory
from course_utils.measure.slow_link import SlowLink

__all__ = ["Held", "Ledger", "LiveMemory", "Sent", "SlowLink", "add_up", "held"]
