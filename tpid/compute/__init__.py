"""Block math on a share: what one rank computes between two allreduces. No asyncio, no sockets."""
