"""Steps on a device that computes while the host plans: overlapped, in captured graphs, on a GPU.

Everything but the capture itself runs on any device, so that the CPU's tests hold it.
"""
