"""Toolkit for figures, and for documents of text, tables and figures.

figures     colors, sizes; a figure as PNG
curves      the curves of a run
sheets      sheets of slices
heat        a heat map over its slice
sides       the letters of the patient's sides
document    a document: sections of text, tables and pictures
html        a document as one page with everything inside
fitting     text and tables fitted into a width
pdf         a document for print
slides      a document as slides
markdown    a document as text for people and machines
"""
