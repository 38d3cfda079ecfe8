"""Files that a user puts somewhere: which of them may be read, and what is in them, whatever wrote them."""
