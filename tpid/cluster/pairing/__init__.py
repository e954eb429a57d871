"""How a device enters the home: one short code that both sides prove to each other."""
