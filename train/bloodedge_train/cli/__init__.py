"""The commands of the GPU host."""
