"""Who this device is: its key, its certificate, and the TLS that proves both."""
