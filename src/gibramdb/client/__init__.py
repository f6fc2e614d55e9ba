"""A server's store from another process: sockets beneath `gibramdb.session`."""
