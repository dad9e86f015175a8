"""What every room needs, without torch."""
