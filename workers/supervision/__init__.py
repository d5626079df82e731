"""What a host and its engine processes say to each other."""
