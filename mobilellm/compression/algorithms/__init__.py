"""Compression algorithms in pure torch, which work on tensors and on any `nn.Module`."""
