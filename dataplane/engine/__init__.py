"""The Python doors of the native kernels: arguments are checked here or in the kernel, errors get their names."""
