"""Steps on a device that computes while the host plans: overlapped and, on a GPU, in captured graphs.

Everything except the capture itself runs on any device, so tests on a CPU cover it.
"""
