"""The pack: a model on disk in our layout. docs/pack-format.md is the specification."""
