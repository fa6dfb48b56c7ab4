"""Training state that follows the weights."""
