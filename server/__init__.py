"""What servers A and B share: service, session, engine, CrypTen runtime, peer link, share store."""
