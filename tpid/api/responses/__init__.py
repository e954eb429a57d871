"""OpenAI's Responses API: text and tools, nothing kept."""
