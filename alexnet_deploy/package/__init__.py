"""Packages: a deployment in one file that can be moved, checked and run as it is.

    model.zip
      package.json       which artifacts it was made of, the one to run first
      engine.plan        each with its manifest, and a plan with its twin
      engine.plan.json
      labels.txt, LICENSE
      SHA256SUMS         of everything above, as sha256sum writes and checks it
      SHA256SUMS.sig     Ed25519, over the bytes of SHA256SUMS; only in a signed package

A plan is code that runs as soon as it is loaded: whoever opens packages of others should ask for a signature (`trust`).
Files are stored, not compressed: weights do not shrink, and nothing can be larger than the archive that it is in.

layout.py      the names above
writing.py     write_package
signature.py   Ed25519, by the `cryptography` package, which only signed packages need
reading.py     open_package, which believes nothing that it has not checked
"""

from alexnet_deploy.package.reading import open_artifact, open_package
from alexnet_deploy.package.writing import PackageReport, write_package

__all__ = ["PackageReport", "open_artifact", "open_package", "write_package"]
