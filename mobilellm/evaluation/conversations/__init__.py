"""How well a model writes the turns of held-out conversations: function calls and replies."""
