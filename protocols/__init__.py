"""The mathematics of Darkroom: no sockets, no clock, no files."""
