"""What a run has made, on disk."""
