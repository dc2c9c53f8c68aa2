"""Teachers: frozen models, or logit stores with the stored probabilities of a model."""
