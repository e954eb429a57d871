"""Where the parts meet: plans are loaded, passes run, text is generated."""
