"""The bundled `nash-cell` and `nash-hepatocyte` classifiers, trained on rendered tissue."""
