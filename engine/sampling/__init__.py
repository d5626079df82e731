"""What sequences ask of sampling, by batch row; the pass over a step's logits is `kernels/sample.py`."""
