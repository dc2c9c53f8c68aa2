"""How good a model is: cross entropy and validation loss."""
