"""HTTP on TCP and on a Unix socket: chat as OpenAI has it, and on the socket alone the control of the daemon."""
