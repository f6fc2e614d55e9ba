"""Sockets, tasks and the order of start and stop. What a command means is decided below."""
