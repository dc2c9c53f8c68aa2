"""Tasks of the lm-evaluation-harness (the package lm-eval) on models of this project."""
