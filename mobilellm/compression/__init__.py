"""Compression of a MobileLLM: recipes that calibrate, plan and apply."""
