"""What is written of a study for other programs: records, tables, a DICOM report, DICOM key images."""
