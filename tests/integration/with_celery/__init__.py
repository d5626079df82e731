"""A package, so that the installation that its tests share ends with the last of them."""
