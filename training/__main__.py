"""`torchrun --nproc-per-node 2 -m training --data photos ...`: `alexnet-deploy train` in several processes at once."""

from alexnet_deploy.cli.train import command

command(prog_name="alexnet-deploy train")
