"""Ollama's API: the same models and the same engine, for clients that speak only it."""
