"""Server B: the server in role B. All behaviour is in `server`."""
