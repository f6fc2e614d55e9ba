"""The state, what may happen to it, and what does. Pure: no clock, no disk, no event loop."""
