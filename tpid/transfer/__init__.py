"""Units of packs between the devices of a home, on connections of their own."""
