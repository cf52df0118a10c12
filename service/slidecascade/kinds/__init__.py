"""What the kinds of pipeline have in common, and the table of the kinds there are."""
