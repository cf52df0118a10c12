"""Model packages: their specification, tensors and repository."""
