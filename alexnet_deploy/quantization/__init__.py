"""An FP32 graph and pictures in, a graph of lower precision out: ranges, rounding, graph forms, what each layer costs."""
