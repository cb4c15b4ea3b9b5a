"""Trains a model: ``python train.py key=value ...``; ``--help`` lists what there is to set."""

from ich.train import main

if __name__ == "__main__":
    main()
