"""Outputs of a study for other programs: records, tables, a DICOM report and DICOM key images."""

OUTPUTS = {
    "page": "a page per study, with key slices and heat maps",
    "sr": "a DICOM Comprehensive 3D SR",
    "sc": "key images as DICOM Secondary Capture",
}
"""Outputs that are written on request, beside JSON and tables."""

SHOWN = ("PatientID", "AccessionNumber", "StudyDate", "SeriesDescription")
"""Attributes that pages show on request. Any of them may identify a patient, so none is shown otherwise. JSON
names AccessionNumber and StudyDate only on request, too."""

INDEX = "index.html"
"""File with the list of studies, beside their pages."""
