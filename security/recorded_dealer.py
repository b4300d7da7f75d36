"""`python -m security.recorded_dealer --config FILE`: the dealer, recorded."""

from security.recorded_parties import run_recorded_dealer

if __name__ == "__main__":
    run_recorded_dealer()
