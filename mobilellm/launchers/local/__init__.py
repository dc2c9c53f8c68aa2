"""The launcher `local`: trials as processes of this machine."""
