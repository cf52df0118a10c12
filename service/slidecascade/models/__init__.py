"""What a model package promises, and the repository of packages."""
