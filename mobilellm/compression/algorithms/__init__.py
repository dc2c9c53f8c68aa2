"""Algorithms that make weights smaller: pure torch, on tensors and on any `nn.Module`."""
