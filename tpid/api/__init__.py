"""HTTP on a Unix socket: chat as OpenAI has it, and the control of the daemon. File permissions decide who may."""
