"""Compression of a MobileLLM: calibrate, plan, apply, report; the algorithms are `compression`'s."""
