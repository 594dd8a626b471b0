"""Small real things that stand in for big or distant ones."""
