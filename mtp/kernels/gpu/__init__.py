"""What runs on a GPU: the passes in Triton, imported there only, how they are run and recorded."""
