"""What a model is: its numbers, its weights as published, its tokenizer and its chat template."""
