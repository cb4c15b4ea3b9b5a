"""What is written of study results: JSON, CSV and DICOM objects."""
