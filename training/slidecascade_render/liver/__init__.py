"""Rendered H&E liver.

`specimen` holds the options, `layout` places vessels, hepatocytes and other cells (`anatomy`, `hepatocytes`,
`stroma`), `paint` and `chromatin` colour them, `tissue.render` gives pixels and truth, `crops` cuts labelled
cells.
"""
