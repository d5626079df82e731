"""What sequences ask of sampling, by batch row; `kernels/sample.py` is the pass over a step's logits."""
