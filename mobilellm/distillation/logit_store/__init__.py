"""Logit stores: the k most likely next tokens of a teacher, with their probabilities, on disk."""
