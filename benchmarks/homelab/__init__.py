"""A home on one machine: hosts in network namespaces, joined by a switch in user space. See docs/testbed.md.

It stands beside the benchmarks, because they are scripts and import what lies beside them; the tests have a path to
set (`pythonpath` in pyproject.toml). It is no part of what is installed.
"""
