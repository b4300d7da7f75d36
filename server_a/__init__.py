"""Server A: the server in role A. All behaviour is in `server`."""
