"""Sources of documents: files, folders, the Hugging Face hub, and mixtures."""
