"""The launcher `local`: trials as processes on this machine."""
