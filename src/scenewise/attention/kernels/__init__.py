"""How position attention is computed: tiles on CPUs, Triton and PyTorch kernels on GPUs."""
