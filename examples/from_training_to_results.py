"""Trains on synthetic head CT, evaluates, and reads studies: python from_training_to_results.py [OUT]."""

# %% Synthetic studies, as DICOM files in the layout of the RSNA 2019 data set
import sys
import time
from pathlib import Path

from ich.data import HeadCTDataModule
from ich.models import SliceClassifier
from ich.models.optim import OptimSpec
from ich.phantom import write_phantom
from ich.predict import Predictor
from ich.schema import InputSpec
from ich.train.results import write_results
from ich.train.trainer import build_trainer

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
patients, size, epochs = map(int, sys.argv[2:] or (160, 160, 8))  # some ten minutes on two cores
write_phantom(out / "phantom", patients=patients, size=size)

# %% A network that sees each slice through three windows
spec = InputSpec(size=size * 3 // 5, windows=("brain", "subdural", "soft_tissue"))
data = HeadCTDataModule(str(out / "phantom"), spec, batch_size=16)
model = SliceClassifier(input=spec, pretrained=False, optim=OptimSpec(lr=2e-3))
trainer = build_trainer(run_dir=out / "run", gpus=0, max_epochs=epochs)
began = time.monotonic()
trainer.fit(model, datamodule=data)

# %% Figures with intervals over patients; calibration, operating points and the reference go to best.ckpt
write_results(out / "run", data, gpus=0, seconds=time.monotonic() - began)

# %% Studies of other patients, as a hospital would send them
write_phantom(out / "others", patients=max(3, patients // 20), seed=1, size=size, conformant=True)
for result in Predictor.load(out / "run").predict(out / "others"):
    reasons = ", ".join(reason.code for reason in result.reasons)
    probs = ", ".join(f"{name} {label.prob:.2f}" for name, label in result.labels.items())
    print(result.number, result.outcome or result.refusal, reasons, probs)
