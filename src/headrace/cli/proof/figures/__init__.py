"""Figures as SVG, drawn from what was measured and nothing else.

A figure has classes and no colours. In the page they are coloured by its style sheet, in a file of their own by `standalone`.
"""
