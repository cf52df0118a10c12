"""The image translator for fluorescent nuclei: from a mask to an image."""
