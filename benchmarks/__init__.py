"""Benchmarks (``bench_*.py``), the demo, and the realistic disk images that both of them work on."""
