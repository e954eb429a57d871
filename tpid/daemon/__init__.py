"""The composition root: builds the parts, joins them, runs them, takes them down."""
