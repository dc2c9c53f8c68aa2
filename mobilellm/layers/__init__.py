"""The matrices that a model can be built of: dense, sums of Kronecker products, masked."""
