"""Queries and communities: derived from the state, never the source of truth. Pure."""
