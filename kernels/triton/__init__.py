"""The GPU path of each operation; imported only where there are CUDA tensors, or by the tests."""
