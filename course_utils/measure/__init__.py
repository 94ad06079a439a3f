"""What a run holds, sends and takes, as seen by somebody who does not know the formulas."""

from course_utils.measure.ledger import Held, Ledger, Sent, add_up, held
from course_utils.measure.slow_link import SlowLink

__all__ = ["Held", "Ledger", "Sent", "SlowLink", "add_up", "held"]
