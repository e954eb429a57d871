"""The commands and their options, as typer has them. A command's work is imported when it runs, for a fast start."""
