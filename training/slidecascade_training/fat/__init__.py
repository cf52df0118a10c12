"""The recipe of the bundled network for vacuoles of fat in liver, which is trained on rendered tissue alone."""
