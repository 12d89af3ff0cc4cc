"""Batch scoring: any number of pictures through one artifact, into Parquet, resumable, on one machine or many.

find.py          what there is to do: pictures in files, Parquet, tars or sets, cut into numbered shards
shards.py        what a shard is, and how its pictures are read
places.py        paths and URLs
parts.py         what is done: one Parquet file a shard, written whole or not at all
work.py          one shard through a Runtime
run.py           all of them, in this process
distributed.py   all of them, on Ray

A shard is done when its part exists. A process that is killed leaves no half of one, and the next takes up the rest: nothing
is lost, nothing counted twice.
"""

from alexnet_deploy.score.run import ScoreReport, score

__all__ = ["ScoreReport", "score"]
