"""Model repositories for NVIDIA's Triton Inference Server.

repository.py   what is written: each model in a folder of its own
containers.py   which container reads it
ensemble.py     pictures as uint8 in front of a model that takes float
config.py       config.pbtxt
"""

from alexnet_deploy.triton.config import TritonModel
from alexnet_deploy.triton.repository import TritonReport, write_repository

__all__ = ["TritonModel", "TritonReport", "write_repository"]
