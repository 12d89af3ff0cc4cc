"""AlexNet in PyTorch: the model family, its data, its training and its checkpoints.

family.py       the five architectures
model.py        a frozen config, and the network it describes
data.py         which pictures to train on, and which to measure on
batches.py      pictures to training batches: order, augmentation, all drawn from (seed, epoch, step)
train.py        the training loop, resumable to the bit
state.py        what a training needs to go on where it was stopped
signals.py      stopping between two steps
checkpoint.py   safetensors and manifest; never pickle

Nothing here is imported by an application that only runs engines.
"""
