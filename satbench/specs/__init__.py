"""What is asked for and what is said of it, as values without torch."""
