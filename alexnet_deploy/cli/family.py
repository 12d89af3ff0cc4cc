"""The names of the AlexNet family, for --help, which imports no torch."""

ARCHITECTURES = ("alexnet", "alexnet-2012", "alexnet-caffe", "alexnet-bvlc", "alexnet-bn", "alexnet-tutorial")
