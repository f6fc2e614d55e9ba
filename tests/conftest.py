"""Its place puts `tests/` on the import path, so that `support` can be imported."""

import os
import signal

import numpy as np  # noqa: F401 (it makes its threads here, as everywhere)
from hypothesis import settings

# A shell starts what runs in its background with Ctrl-C ignored, and children inherit that; some tests send one.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What an example takes says more of the machine than of us; where time is the claim, a test measures it.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# In each process that a test starts BLAS would make a thread for every core, which spin for a tenth of a second; a server
# has it use one in any case.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
