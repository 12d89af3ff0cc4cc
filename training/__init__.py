"""AlexNet in PyTorch: the model family, its data, its training and its checkpoints.

family.py       the six architectures
model.py        a frozen config, and the network it describes
data.py         which pictures to train on, and which to measure on
streams.py      shards that come over the network
weights.py      weights to start from: fetched, or in files
foreign_weights.py  those of Caffe's models and of the ONNX zoo's
protobuf.py     as much of protocol buffers as these need
settings.py     everything that decides what comes out
recipes.py      settings that belong together, by name
augment.py      what is varied of a picture
makers.py       processes that make batches
batches.py      pictures to batches: order, augmentation and mixing, all drawn from (seed, epoch, picture)
optimiser.py    each layer with its share of the learning rate
average.py      the moving average of the weights
qat.py          rounding while training
measure.py      loss and accuracy
distributed.py  several processes on one network
learner.py      a network that learns: one step of it
replicas.py     a part of the batch for each core
fast_paths.py   which way of computing a step is the fastest here
train.py        the training loop, resumable to the bit
records.py      what is known of a training, and who is told
curves.py       what TensorBoard draws
state.py        what a training needs to go on where it was stopped
signals.py      stopping between two steps
tensors.py      safetensors files, and full disks
checkpoint.py   safetensors and manifest; never pickle

Nothing here is imported by an application that only runs engines.
"""
