"""What firewalls of this machine let through: read, never changed."""
