"""Intracranial hemorrhage detection in head CT.

The modules read from top to bottom like the flow of the data. Each imports only from a lower floor.

    schema             1  labels, InputSpec, results and codes, ranges of HU, the error types
    files              1  files, whole or not at all, for their owner alone
    progress           1  work on many files with a bar; printing to a terminal or a pipe
    dicom              2  one file: header, stored pixels -> HU
    phantom            2  synthetic head-CT studies as real DICOM
    image              2  HU -> image: windows, augmentation, resizing
    tables             2  the index and the predictions table; which images are one stack
    calibration        2  calibrated probabilities; operating points; out-of-distribution reference
    folders            2  a folder with results of one setting only
    report             2  drawing toolkit: figures; documents as pages, for print, as slides
    index              3  folder -> index; label CSV; split; data quality; identical pixels
    model_files        3  checkpoint, bundle, metadata: what a file says of its model
    data               4  slice dataset and HeadCTDataModule
    models             4  SliceNet and SliceClassifier, losses, metrics, optimizers
    evaluate           4  predictions table -> figures with intervals; the RSNA's submission
    explore            4  a data set -> a page that shows what is in it
    studies            4  files, archives, media -> studies -> the series that is read
    networks           5  trained networks, by PyTorch or as ONNX: HU -> probabilities; export
    explain            5  heat maps as arrays and pictures
    outputs            6  a study's result -> JSON, tables, page, DICOM report, key images
    evaluation_report  6  documents, pictures and galleries of an evaluation
    predict            7  models and studies -> results
    train              7  configuration -> run folder, with Lightning's Trainer
    cli                8  the commands of `ich`: arguments in, exit codes out
"""

__version__ = "0.1.0"
