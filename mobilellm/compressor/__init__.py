"""Compression of a MobileLLM: calibrate, plan, apply, report. Above `compression`, which knows only tensors."""
