"""Implementations of position attention: tiles on CPUs, Triton and PyTorch kernels on GPUs."""
