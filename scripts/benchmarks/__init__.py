"""Side-by-side measurements of speed and memory; `scripts/benchmark.py` runs them."""
