"""The GPU path of each operation, imported only for CUDA tensors or by the tests."""
