"""Intracranial hemorrhage detection in head CT.

The modules read from top to bottom like the flow of the data. Each imports only from a lower floor.

    schema       0  labels, InputSpec, Batch, the error types; file formats
    files        0  complete files that only their owner can read
    progress     0  work on many files, with a bar
    printing     0  printing of names that are not valid text, and to a closed output
    dicom        1  one file: header, stored pixels -> HU
    window       1  windowing: HU -> image
    augment      1  random changes to HU, ours or of albumentations; on the CPU or a device
    losses       1  weighted binary cross-entropy and its alternatives
    folders      1  a folder with results of one setting only
    optim        1  optimizer and learning-rate schedule
    calibration  1  calibrated probabilities; operating points; out-of-distribution detection
    phantom      1  synthetic head-CT studies as real DICOM
    tables       1  the index and the predictions table
    image        1  slices of a series -> what a network sees: order, neighbors, size
    stacks       1  which images of a series are slices that lie one upon the other
    report       1  figures; documents as pages, for print, as slides
    metadata     2  model metadata in a file, validated
    index        2  folder -> index; label CSV; join
    findings     2  data quality: what is not plausible in slices and series
    identical    2  slices of different patients with the same pixels
    split        2  patients -> train, val, test
    explain      2  heat maps of any network
    submission   2  the RSNA 2019 challenge's CSV
    metrics      2  the weighted log loss and the metric collection
    outputs      2  a study's result -> JSON, tables, DICOM report and key images
    checkpoint   3  checkpoint files: writing, finding and reading them
    bundle       3  one file to share a model
    studies      3  files, folders, archives, media -> studies
    data         3  slice dataset and HeadCTDataModule
    explore      3  a data set -> a page that shows what is in it
    series       3  which series of a study is read, and whether it can be believed
    models       4  SliceNet, and SliceClassifier, which trains one
    evaluate     4  predictions table -> figures with intervals
    trainer      4  Lightning's Trainer: devices, checkpoints, the log of metrics
    networks     5  trained networks, by PyTorch or as ONNX: HU -> probabilities
    heatmaps     5  slices -> heat maps as pictures and arrays
    train        5  configuration -> run folder
    galleries    6  the slices on which a model was most wrong
    evaluation_report  7  an evaluation as a folder: report, figures, model card, checklist
    pages        6  a study's result -> a page
    export       6  a model as ONNX, checked against PyTorch
    predict      7  models and studies -> results
    cli          8  ich train | index | phantom | explore | evaluate | explain | predict | bundle | export
"""

__version__ = "0.1.0"
