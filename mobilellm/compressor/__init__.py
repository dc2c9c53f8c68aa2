"""Compression of a MobileLLM: calibrate, plan, apply, report; algorithms: `compression`."""
