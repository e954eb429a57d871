"""The C kernels and the library that holds them."""
