"""Its place puts `tests/` on the import path, so that `support` can be imported."""
