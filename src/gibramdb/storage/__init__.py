"""Bytes and files. Knows mutations only through `record`."""
