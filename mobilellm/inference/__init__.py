"""Using trained models: loading a model together with its tokenizer, and generating text."""
