"""Everything that touches TensorRT or CUDA: one adapter over both TensorRT libraries, building plans, and running them."""
