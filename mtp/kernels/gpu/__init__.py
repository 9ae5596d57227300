"""The passes of the CUDA kernel in Triton; nothing outside mtp/kernels/cuda.py imports them."""
