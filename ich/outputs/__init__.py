"""What is written of a study for other programs: plain records and tables, a DICOM report, DICOM key images."""
