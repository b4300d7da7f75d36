"""The dealer: correlated randomness for servers A and B. Sees no share of any image, result or weight."""
