"""The bundled `lymph-tumour` classifier, trained on rendered lymph nodes."""
