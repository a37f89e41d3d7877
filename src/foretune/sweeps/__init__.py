"""Sweeps: many runs from one file, drained by any number of workers, and an honest choice among them."""
