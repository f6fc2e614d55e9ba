"""The command line: a skin over the server, the client and the store's files."""
