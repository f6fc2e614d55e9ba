"""Its place puts `tests/` on the import path, so that `support` can be imported."""

import signal

# A shell starts what runs in its background with Ctrl-C ignored, and children inherit that; some tests send one.
signal.signal(signal.SIGINT, signal.default_int_handler)
