"""Security evaluation: what each party can learn, shown by running it. `python -m security`."""
