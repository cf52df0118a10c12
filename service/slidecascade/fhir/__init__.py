"""FHIR R4: Bundles of a result's figures, and servers that take them."""
