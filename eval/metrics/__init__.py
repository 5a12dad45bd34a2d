"""What is measured of an edit."""
