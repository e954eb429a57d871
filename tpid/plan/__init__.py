"""Who computes what: pure functions from devices and a model's geometry to a plan."""
