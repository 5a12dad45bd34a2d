"""Which editors there are, and what they are given."""
