"""The parts of the benchmark, each with one public `run`: measures, and keeps what it found in the `Bench`."""
