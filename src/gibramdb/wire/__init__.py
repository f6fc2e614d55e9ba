"""The bytes between a server and its clients: frames, envelopes, and one table of commands. No sockets here."""
