"""What is written of a study for other programs: records, tables, a DICOM report, DICOM key images."""

OUTPUTS = {
    "page": "a page a study, with key slices and heat maps",
    "sr": "a DICOM Comprehensive 3D SR",
    "sc": "key images as DICOM Secondary Capture",
}
"""What is written of a study on request, beside JSON and tables."""
