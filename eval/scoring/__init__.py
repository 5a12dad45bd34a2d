"""From the pictures of a store to its scores."""
