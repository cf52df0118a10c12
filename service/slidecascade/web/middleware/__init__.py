"""What every request passes on its way in and its response on the way out."""
