"""Says what training is doing, with the time."""

import time


def log(message: str) -> None:
    """Prints a line at once, so that a log file can be followed."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)
