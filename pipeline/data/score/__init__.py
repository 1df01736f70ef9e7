"""What reference models think of every token."""
