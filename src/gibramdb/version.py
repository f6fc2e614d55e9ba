"""Which version this is. Reading it from the installed metadata would load a zip and a mail parser at each start."""

__version__ = "0.1.0"
