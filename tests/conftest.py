"""What all tests need of the process that they run in."""

from __future__ import annotations

import signal

# A shell in the background ignores SIGINT, and what it starts inherits that; tests send Ctrl-C to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
