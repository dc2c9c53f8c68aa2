"""The project's side-by-side measurements; `scripts/benchmark.py` runs them."""
