"""Frames, connections and the allreduce: how devices speak. docs/protocol.md is the specification."""
