"""How a model is fooled, how it learns to withstand, and how an attack is examined."""
